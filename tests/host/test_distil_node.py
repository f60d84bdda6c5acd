"""A ControlNet of the graph as teacher: what it adds is what ComfyUI adds, and a student learns it and samples."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.t2i_adapter.adapter
import pytest
import torch
from conftest import PACK_NAME
from PIL import Image
from run_left import events
from small_model import TEXT_WIDTH, noise_of, picture, prompt, relative, sample, small_controlnet, small_model
from small_tuners import csc_tuner
from train_on_model_widgets import WIDGETS

import nodes as host_nodes

HINT, SIDE = 64, 8


@pytest.fixture(scope="module")
def training(pack) -> SimpleNamespace:
    """The modules of nodes/training, and of the core's room for it."""
    own = ("host_base", "on_model", "previews", "running", "teacher")
    found = {name: importlib.import_module(f"{PACK_NAME}.nodes.training.{name}") for name in own}
    found["base"] = importlib.import_module(f"{PACK_NAME}.scedit_core.fitting.base")
    return SimpleNamespace(**found)


@pytest.fixture
def distil(pack, folders):
    """Run the node with some inputs changed, as the host does: all in lists."""

    def distil(model, control_net, **changed):
        draw = torch.Generator().manual_seed(0)
        given = {key: value for key, value in WIDGETS.items() if key != "kind"}
        given |= {"condition": "lineart", "residuals": -1, "predictions": -1, "name": "student"}
        given["latents"] = [{"samples": torch.randn(3, 4, SIDE, SIDE, generator=draw)}]
        given["hints"] = [picture(3, HINT, HINT)]
        given["positive"] = [prompt(1)]
        given |= changed
        lists = ("latents", "positive", "hints")
        given = {key: value if key in lists else [value] for key, value in given.items() if value is not None}
        node = pack.nodes["SCEditDistillControlNet"]
        return node.execute(model=[model], control_net=[control_net], **given).args

    return distil


def controlnet(family: str = "sd1", seed: int = 11, **changed):
    """A ControlNet of the host for a small model."""
    from small_model import randomise, unet_config

    config = unet_config(family) | {"hint_channels": 3, "operations": comfy.ops.disable_weight_init} | changed
    del config["out_channels"], config["transformer_depth_output"]
    network = randomise(comfy.cldm.cldm.ControlNet(**config), seed)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"), manual_cast_dtype=torch.float32)


# ---- what it adds, and to what ----


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_residuals_skips_and_prediction_are_those_of_apply_controlnet(training, monkeypatch, family):
    """In a step of KSampler, by the host's own node: what is added, the skips that a patch sees, and the outcome."""
    model, control = small_model(family), controlnet(family)
    hint, text = picture(1, 128, 128), prompt(1, family)
    seen = SimpleNamespace(control=[], unedited=[], patched=[], x=[], t=[])
    original = comfy.controlnet.ControlNet.get_control

    def get_control(self, x, t, *others):
        found = original(self, x, t, *others)
        seen.x.append(x.clone())
        seen.t.append(t.clone())
        seen.control.append({key: [each.clone() for each in parts] for key, parts in found.items()})
        return found

    def skip_seen(h, options):
        seen.unedited.append(h.clone())
        return h

    def patch_seen(h, hsp, options):
        seen.patched.append(hsp.clone())
        return h, hsp

    monkeypatch.setattr(comfy.controlnet.ControlNet, "get_control", get_control)
    sampled = model.clone()
    sampled.set_model_patch(skip_seen, "input_block_patch_after_skip")
    sampled.set_model_output_block_patch(patch_seen)
    outcome: list[torch.Tensor] = []
    applied = host_nodes.ControlNetApplyAdvanced().apply_controlnet(text, text, control, hint, 1.0, 0.0, 1.0)
    unet = model.model.diffusion_model
    hook = unet.register_forward_hook(lambda _module, _inputs, out: outcome.append(out.clone()))
    sample(sampled, *applied, noise_of(), steps=2, cfg=1.0, family=family)
    hook.remove()
    monkeypatch.setattr(comfy.controlnet.ControlNet, "get_control", original)

    states, extras = text[0]
    text = training.base.TextStates(states.clone(), extras["pooled_output"].clone() if extras else None)
    sizes = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]]) if family == "sdxl" else None
    count = len(unet.output_blocks)
    with torch.inference_mode(False), torch.enable_grad():
        base = training.host_base.HostBase(model, "auto", False, None)
        teacher = training.teacher.HostTeacher(control, base, "a ControlNet")
        base.beside = teacher.models()
        for i in range(2):
            sigma = seen.t[i].clone()
            noisy = seen.x[i].clone() / (sigma**2 + 1).sqrt()
            timesteps = base._sampling.timestep(sigma)
            with base.loaded(), teacher.running():
                added = teacher.residuals(noisy, timesteps, hint.movedim(-1, 1).clone(), text, sizes)
                skips = base.skips(noisy, timesteps, text, sizes)
                predicted = base.predict(noisy, timesteps, text, sizes, added=added)
            expected = seen.control[i]
            assert len(added.skips) == len(skips) == count == len(expected["output"])
            for b in range(count):
                assert relative(added.skips[b], expected["output"][count - 1 - b]) < 1e-5
                assert relative(skips[b], seen.unedited[i * count + count - 1 - b]) < 1e-5
                assert relative(skips[b] + added.skips[b], seen.patched[i * count + b]) < 1e-5
            assert relative(added.middle, expected["middle"][0]) < 1e-5
            assert relative(predicted, outcome[i]) < 1e-5
            assert not any(t.requires_grad or t.is_inference() for t in (*skips, *added.skips))


def test_a_control_lora_teaches_as_the_controlnet_that_it_unfolds_to(training):
    """Which the host makes at each start of a run, from the weights of the model."""
    model, whole = small_model(), small_controlnet()
    state, unet = whole.control_model.state_dict(), model.model.diffusion_model.state_dict()
    weights = {name: weight.clone() for name, weight in state.items() if name not in unet}
    whole.control_model.load_state_dict({name: unet.get(name, weight) for name, weight in state.items()})
    draw = torch.Generator().manual_seed(2)
    noisy, hint = torch.randn(1, 4, SIDE, SIDE, generator=draw), torch.rand(1, 3, HINT, HINT, generator=draw)
    text, found = training.base.TextStates(prompt(1)[0][0].clone()), []
    with torch.inference_mode(False):
        base = training.host_base.HostBase(model, "auto", False, None)
        for control in (whole, comfy.controlnet.ControlLora({"lora_controlnet": torch.zeros(1), **weights})):
            teacher = training.teacher.HostTeacher(control, base, "")
            base.beside = teacher.models()
            assert len(teacher.digest) == 16
            with base.loaded(), teacher.running():
                teacher.start()
                found.append(teacher.residuals(noisy, torch.tensor([500]), hint, text, None))
    for one, other in zip(found[0].skips, found[1].skips, strict=True):
        assert relative(other, one) < 1e-5


def test_it_is_cleaned_up_also_after_an_exception(training):
    with torch.inference_mode(False):
        base = training.host_base.HostBase(small_model(), "auto", False, None)
        teacher = training.teacher.HostTeacher(small_controlnet(), base, "a ControlNet")
        base.beside = teacher.models()
        with base.loaded(), pytest.raises(ZeroDivisionError), teacher.running():
            [teacher.control.model_sampling_current.sigmas][1 // 0]
        assert teacher.control.model_sampling_current is None


def test_its_digest_changes_with_its_weights(training):
    with torch.inference_mode(False):
        base = training.host_base.HostBase(small_model(), "auto", False, None)
        digests = [training.teacher.HostTeacher(small_controlnet(seed), base, "").digest for seed in (11, 11, 12)]
    assert digests[0] == digests[1] != digests[2]


# ---- the node ----


def test_a_student_of_few_updates_is_nearer_and_samples(pack, distil, folders):
    """The loss of the residuals falls, and the student changes a picture through the host's Apply ControlNet."""
    model = small_model()
    control, losses, steps = distil(model, small_controlnet(), steps=60, residuals=60, learning_rate=5e-3)
    losses = losses["loss"]
    assert steps == len(losses) == 60
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    hint = picture(1, 128, 128)
    applied = host_nodes.ControlNetApplyAdvanced().apply_controlnet(prompt(1), prompt(2), control, hint, 1.0, 0.0, 1.0)
    with_it, without = sample(model, *applied), sample(model)
    assert torch.isfinite(with_it).all()
    assert relative(with_it, without) > 1e-3
    told = json.loads(control.tuner.tuner.metadata["scedit.teacher"])
    assert (told["name"], told["residuals"], told["predictions"]) == ("ControlNet", 60, 0)
    assert len(told["digest"]) == 16
    assert json.loads(control.tuner.tuner.metadata["scedit.condition"])["type"] == "lineart"
    assert (folders / "scedit" / "student.safetensors").is_file()


@pytest.mark.parametrize(
    ("given", "phases"),
    [
        ({}, (2, 0, 6)),
        ({"positive": None, "clip": "CLIP"}, (4, 4, 0)),
        ({"residuals": 3, "predictions": 2}, (3, 2, 3)),
    ],
)
def test_phases_follow_widgets_and_captions(distil, folders, given, phases):
    if "clip" in given:
        given = {**given, "clip": Text()}
    distil(small_model(), small_controlnet(), steps=8, **given)
    (plan,) = events(folders, "plan", "student")
    assert tuple(plan["teacher"][name] for name in ("residuals", "predictions", "pictures")) == phases


class Text:
    """A text encoder of random states; what the nodes ask of a CLIP."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list:
        return prompt(len(text))


def test_a_student_sees_all_noise_levels_alike_as_from_the_command_line(distil):
    student, _, _ = distil(small_model(), small_controlnet(), steps=1)
    assert json.loads(student.tuner.tuner.metadata["scedit.training"])["timestep_sampling"] == "uniform"


def test_previews_show_teacher_and_student_beside_each_other(pack, training, distil, folders):
    """The base, the teacher and the student at one seed; the teacher's is what Apply ControlNet gives."""
    model, control = small_model(), small_controlnet()
    student = distil(model, control, steps=4, preview_every=2, residuals=4, learning_rate=0.02)[0]
    sheet = Image.open(folders / "output" / "scedit" / "student" / "previews" / "step-000004.jpg")
    assert sheet.size == (3 * HINT, 2 * HINT)
    hint = (picture(3, HINT, HINT)[:1] * 255).round() / 255
    noise = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(training.previews.SEED))
    empty = [[torch.zeros(1, 7, TEXT_WIDTH), {}]]
    options = {"steps": training.previews.STEPS, "cfg": training.previews.GUIDANCE, "scheduler": "sgm_uniform"}
    columns = []
    for each in (None, control, student):
        conds = prompt(1), empty
        if each is not None:
            conds = host_nodes.ControlNetApplyAdvanced().apply_controlnet(*conds, each, hint, 1.0, 0.0, 1.0)
        latent = sample(model, *conds, noise, sampler="ddim", **options)
        colours = training.previews._colours(latent, model.model.latent_format)
        columns.append((colours * 255).round())
    shown = torch.frombuffer(bytearray(sheet.convert("RGB").tobytes()), dtype=torch.uint8).view(2 * HINT, 3 * HINT, 3)
    for i in range(3):
        found = shown[:HINT, i * HINT : (i + 1) * HINT].float()
        apart = [float((found - each).abs().mean()) for each in columns]
        assert apart[i] < 16  # of 255, by JPEG
        assert all(other > 2 * apart[i] for j, other in enumerate(apart) if j != i)


def test_the_file_of_the_loader_is_the_teachers_name(pack):
    file_of = importlib.import_module(f"{PACK_NAME}.nodes.training.distil")._file_of
    graph = {
        "1": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "sd15/lineart.safetensors"}},
        "2": {"class_type": "SetUnionControlNetType", "inputs": {"control_net": ["1", 0], "type": "canny"}},
        "3": {"class_type": "SCEditDistillControlNet", "inputs": {"control_net": ["2", 0]}},
    }
    assert file_of(graph, "3") == "sd15/lineart.safetensors"
    assert file_of(graph, "4") is None
    assert file_of(None, None) is None


def test_another_teacher_does_not_resume_the_run(distil):
    distil(small_model(), small_controlnet(), steps=2)
    with pytest.raises(Exception, match=r"found other values for teacher\.digest"):
        distil(small_model(), small_controlnet(12), steps=3, residuals=0, predictions=0)


# ---- refused ----


def refused(pack) -> dict:
    """Controls that cannot teach, and what the sentence says of each."""
    operations = comfy.ops.disable_weight_init
    adapter = comfy.t2i_adapter.adapter.Adapter_light(channels=[32, 64, 128, 128], nums_rb=1, cin=192)
    tuner = csc_tuner(pack)
    lllite = type("ControlLLLiteAdvanced", (comfy.controlnet.ControlBase,), {})()
    transformer = comfy.controlnet.ControlNet(
        torch.nn.Linear(2, 2), latent_format=comfy.latent_formats.SD3(), load_device=torch.device("cpu")
    )
    silent = type("Silent", (comfy.controlnet.ControlBase,), {"get_control": lambda *_: None})
    silent.copy = lambda self: self
    return {
        "student": (pack.control.SCEditControl(tuner), "found a CSC-Tuner"),
        "adapter": (comfy.controlnet.T2IAdapter(adapter, 64, 8, "nearest-exact"), "found a T2I-Adapter"),
        "lllite": (lllite, "found ControlLLLiteAdvanced, which changes attention layers"),
        "transformer": (transformer, "of a transformer model, which has no skips"),
        "inpainting": (controlnet(hint_channels=4, operations=operations), "found one with 4 hint channels"),
        "silent": (silent(), "found Silent, which adds nothing to skips"),
        "text": (controlnet(context_dim=48), "expected a ControlNet for .*, found one for another base"),
        "sdxl": (controlnet("sdxl"), "expected a ControlNet for .*, found one for another base"),
        "width": (controlnet(model_channels=64), "found one that adds .* to block"),
    }


@pytest.mark.parametrize(
    "kind", ["student", "adapter", "lllite", "transformer", "inpainting", "silent", "text", "sdxl", "width"]
)
def test_what_cannot_teach_is_refused_by_name(pack, distil, folders, kind):
    control, sentence = refused(pack)[kind]
    with pytest.raises(Exception, match=f"control_net: .*{sentence}") as error:
        distil(small_model(), control)
    assert str(error.value).count("\n") == 0
    assert not (folders / "scedit" / "student.safetensors").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"positive": None}, "clip: expected a CLIP for the empty caption"),
        ({"hints": None}, "hints: expected hints for the condition lineart, found none"),
        ({"hints": None, "condition": "canny"}, "hints: expected pictures to make canny hints of, found latents alone"),
        ({"hints": [picture(2, HINT, HINT)]}, "hints: expected one for each of 3 pictures, found 2"),
        ({"latents": None}, "expected latents or a folder of pictures, found neither"),
    ],
)
def test_other_inputs_are_refused_in_a_sentence(distil, given, sentence):
    with pytest.raises(Exception, match=sentence):
        distil(small_model(), small_controlnet(), **given)
