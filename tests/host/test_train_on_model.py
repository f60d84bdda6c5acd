"""Training on the MODEL in the host's process: equal to the command line's, each caption to its picture."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
import pytest
import torch
import warm
from comfy_execution.graph_utils import ExecutionBlocker
from conftest import PACK_NAME, PACK_ROOT
from small_model import TEXT_WIDTH, outputs_of, picture, prompt, relative, sample, small_model
from small_tuners import apply_sc, sc_tuner
from train_on_model_widgets import latents

sys.path.append(str(Path(__file__).parent / "demo_nodes"))
import embedded_base
import kept_bytes


def events(folder: Path, kind: str, name: str = "style") -> list[dict]:
    lines = (folder / "output" / "scedit" / name / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def distance(one, other) -> float:
    """Relative L2 between the weights of two tuners."""
    found, expected = (torch.cat([p.flatten().double() for p in t.state_dict().values()]) for t in (one, other))
    return relative(found, expected)


# ---- equal to the command line ----


@pytest.fixture(scope="module")
def commanded(tmp_path_factory) -> Path:
    """The folder after the command line has trained a style and a control on the embedded base for 20 steps each."""
    root = tmp_path_factory.mktemp("commanded")
    for kind in ("sc", "csc"):
        config = {
            "base": str(PACK_ROOT / "demo"),
            "output": str(root / f"{kind}.safetensors"),
            "tuner": {"kind": kind},
            "data": {"folder": str(PACK_ROOT / "demo" / "style"), "resolution": 128, "captions": "optional"},
            "loop": {"steps": 20, "batch": 2, "learning_rate": 1e-3, "precision": "fp32"},
            "previews": {"every": 0},
            "validation": {"every": 20, "images": 2, "timesteps": 2},
            "tensorboard": False,
        }
        if kind == "csc":
            config["data"]["condition"] = {"type": "canny"}
        (root / f"{kind}.yaml").write_text(json.dumps(config))
    code = (
        "import sys; from training.__main__ import main; "
        "sys.exit(main(['train', sys.argv[1]]) or main(['train', sys.argv[2]]))"
    )
    done = warm.run_code(code, str(root / "sc.yaml"), str(root / "csc.yaml"))
    assert done.returncode == 0, done.stdout[-2000:]
    return root


@pytest.mark.parametrize("kind", ["sc", "csc"])
def test_losses_and_tuner_equal_the_command_lines(pack, train, folders, commanded, kind):
    sc, control, losses, steps = train(
        embedded_base.load_model(),
        folder=str(PACK_ROOT / "demo" / "style"),
        vae=embedded_base.DemoVAE(),
        clip=embedded_base.DemoText(),
        kind="style" if kind == "sc" else "canny",
        steps=20,
        preview_every=20,
        name=kind,
    )
    log = (commanded / f"{kind}.run" / "events.jsonl").read_text().splitlines()
    expected = [event["loss"] for event in map(json.loads, log) if event["event"] == "step"]
    assert steps == 20
    assert len(expected) == len(losses["loss"]) == 20
    assert max(abs(a / b - 1) for a, b in zip(losses["loss"], expected, strict=True)) < 1e-5
    tuner = (sc if kind == "sc" else control.tuner).tuner
    assert distance(tuner, pack.core.load_tuner(commanded / f"{kind}.safetensors")) < 1e-4
    assert isinstance(control if kind == "sc" else sc, ExecutionBlocker)
    assert (folders / "scedit" / f"{kind}.safetensors").is_file()


def test_as_much_is_kept_for_the_backward_pass_as_by_the_command_line(pack, training):
    """With its frozen layers, in bytes on the embedded base."""
    done = warm.run_code(Path(kept_bytes.__file__).read_text("utf-8"), PACK_ROOT)
    assert done.returncode == 0, done.stdout[-2000:]
    expected = int(done.stdout.splitlines()[-1])
    model = embedded_base.load_model()
    with torch.inference_mode(False), torch.enable_grad():
        base = training.host_base.HostBase(model, "auto", False, None)
        tuner = pack.core.SCTuner(base.layout)
        text = training.base.TextStates(torch.cat([embedded_base.DemoText().encode(c)[0][0].clone() for c in "ab"]))
        with base.loaded(), kept_bytes.counted(model.model, tuner) as found:
            kept_bytes.step(base, tuner, text)
    assert abs(found[0] / expected - 1) < 0.05


# ---- what each row of a batch is ----


def test_each_row_has_its_own_caption_noise_and_level(pack, training, train, monkeypatch):
    """In a batch of 4 with four captions: picture i only ever meets caption i, and no two rows share a noise level."""
    seen: list[tuple] = []
    original = training.host_base.HostBase.predict

    def predict(self, noisy, timesteps, text, sizes, edits=()):
        seen.append((noisy.clone(), timesteps.clone(), text.states.clone()))
        return original(self, noisy, timesteps, text, sizes, edits)

    monkeypatch.setattr(training.host_base.HostBase, "predict", predict)
    pictures = [{"samples": torch.full((1, 4, 8, 8), float(i))} for i in range(4)]
    captions = [[[torch.full((1, 7, TEXT_WIDTH), float(i)), {}]] for i in range(4)]
    model = small_model()
    train(model, latents=pictures, positive=captions, batch=4, steps=6)
    kept = training.host_base.HostBase(model, "auto", False, None).alphas_cumprod
    steps = [each for each in seen if len(each[0]) == 4]
    assert len(steps) == 6
    noises = []
    for noisy, timesteps, states in steps:
        assert len(set(timesteps.tolist())) > 1
        assert sorted(states[:, 0, 0].tolist()) == [0.0, 1.0, 2.0, 3.0]
        for row, t in enumerate(timesteps):
            caption = states[row, 0, 0]
            signal = model.model.process_latent_in(torch.full((4, 8, 8), float(caption)))
            noise = (noisy[row] - kept[t].sqrt() * signal) / (1 - kept[t]).sqrt()
            noises.append(noise)
            # a picture of another caption would shift the mean of 256 standard normal values
            assert abs(float(noise.mean())) < 0.3
    assert len({float(noise[0, 0, 0]) for noise in noises}) == len(noises)


def test_a_short_caption_is_repeated_beside_a_long_one(training):
    """Which attention does not see: 77 and 154 tokens in one batch."""
    short, long = (training.base.TextStates(torch.rand(1, n, 3)) for n in (77, 154))
    found = training.host_base.stacked([short, long]).states
    assert found.shape == (2, 154, 3)
    assert torch.equal(found[0], short.states[0].repeat(2, 1))
    assert torch.equal(found[1], long.states[0])


def test_what_cannot_be_trained_through_is_taken_off_and_said(training, train, folders):
    import comfy_extras.nodes_freelunch as freelunch

    (model,) = outputs_of(freelunch.FreeU_V2, small_model(), 1.3, 1.4, 0.9, 0.2)
    train(model, latents=latents(2), positive=[prompt(1)], steps=2)
    (remarks,) = events(folders, "remarks")
    assert any("not used while training" in each["text"] for each in remarks["remarks"])
    plain = train(small_model(), latents=latents(2), positive=[prompt(1)], steps=2, name="plain")
    assert plain[2]["loss"] == events_losses(folders, "style")


def events_losses(folder: Path, name: str) -> list[float]:
    return [event["loss"] for event in events(folder, "step", name)]


# ---- stopped, resumed, refused ----


def test_cancel_saves_and_queueing_again_resumes_to_the_same_tuner(pack, train, folders, monkeypatch):
    given = {"latents": latents(3), "positive": [prompt(i) for i in range(3)], "steps": 6}
    undisturbed = train(small_model(), name="other", **given)[0].tuner
    loop = importlib.import_module(f"{PACK_NAME}.scedit_core.fitting.loop")
    original = loop.update

    def update(run):
        done = original(run)
        if run.step == 3:
            comfy.model_management.interrupt_current_processing()
        return done

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(small_model(), **given)
    monkeypatch.setattr(loop, "update", original)
    assert not comfy.model_management.processing_interrupted()
    assert (folders / "output" / "scedit" / "style" / "checkpoints" / "step-000003").is_dir()
    assert not (folders / "scedit" / "style.safetensors").exists()
    sc, _, losses, steps = train(small_model(), **given)
    assert (len(losses["loss"]), steps) == (6, 6)
    assert events(folders, "plan")[-1]["first_step"] == 3
    assert distance(sc.tuner, undisturbed) == 0
    assert (folders / "output" / "scedit" / "style" / "report.html").is_file()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["forward", "backward"])
def test_cancel_amid_an_update_saves_those_before_it(pack, train, folders, checkpointing):
    """Newer hosts raise it out of a layer; older ones let the update end, and the wish is seen after it.

    Without a wish every second of 8 updates is saved.
    """
    given = {"latents": latents(3), "positive": [prompt(i) for i in range(3)], "steps": 8}
    given["checkpointing"] = checkpointing
    undisturbed = train(small_model(), name="other", **given)[0].tuner
    model, passes = small_model(), []

    def cancel(_layer, _given):
        passes.append(1)
        if len(passes) == 4 * (1 + checkpointing):  # the decoder of the fourth update, or its second run for gradients
            comfy.model_management.interrupt_current_processing()

    hook = model.model.diffusion_model.output_blocks[3][0].in_layers[2].register_forward_pre_hook(cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, **given)
    hook.remove()
    reached = 3 if hasattr(comfy.ops, "run_every_op") else 4
    saved = sorted(path.name for path in (folders / "output" / "scedit" / "style" / "checkpoints").iterdir())
    assert saved == ["step-000002", f"step-00000{reached}"]
    assert [event["reason"] for event in events(folders, "stopped")] == ["Cancel"]
    sc, *_ = train(small_model(), **given)
    assert events(folders, "plan")[-1]["first_step"] == reached
    assert distance(sc.tuner, undisturbed) == 0


def test_out_of_memory_is_one_sentence_and_the_next_training_works(train, monkeypatch):
    given = {"latents": latents(2), "positive": [prompt(1)], "steps": 2}
    loop = importlib.import_module(f"{PACK_NAME}.scedit_core.fitting.loop")

    def full(run):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", full)
        with pytest.raises(Exception, match="expected room for 2 pictures a step, found too little; turn"):
            train(small_model(), **given)
    assert train(small_model(), **given)[3] == 2


def test_a_loss_that_is_no_number_stops_and_says_so_in_words_of_the_node(train):
    bad = [{"samples": torch.full((1, 4, 8, 8), float("nan"))}]
    said = "step 1: expected a finite loss, found nan; lower learning_rate or use precision bf16"
    with pytest.raises(Exception, match=said):
        train(small_model(), latents=bad, positive=[prompt(1)], batch=1)


@pytest.fixture
def full_disk(monkeypatch):
    """A folder, chosen by the test, where nothing fits any more: what is written there fails as on a full disk."""
    full = []
    fsync = os.fsync

    def no_room(file) -> None:
        place = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
        if any(place.startswith(str(folder)) for folder in full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", no_room)
    return full


def test_a_full_disk_loses_no_step(train, folders, full_disk):
    """Of checkpoints: the last is kept elsewhere, and resumes from the place that the sentence names."""
    given = {"latents": latents(3), "positive": [prompt(i) for i in range(3)]}
    undisturbed = train(small_model(), name="other", steps=6, **given)[0].tuner
    checkpoints = folders / "output" / "scedit" / "style" / "checkpoints"
    full_disk.append(checkpoints)
    with pytest.raises(Exception, match="No space left on device") as caught:
        train(small_model(), steps=6, **given)
    full_disk.clear()
    assert not (folders / "scedit" / "style.safetensors").exists()
    said = re.search(r"step 1 is kept in (\S+); move that folder beside the other checkpoints", str(caught.value))
    kept = Path(said.group(1))
    shutil.move(kept, checkpoints / kept.name)
    sc = train(small_model(), steps=6, **given)[0]
    assert events(folders, "plan")[-1]["first_step"] == 1
    assert distance(sc.tuner, undisturbed) == 0


def test_a_full_disk_of_tuners_is_mended_by_queueing_again(train, folders, full_disk):
    """Nothing is trained a second time."""
    given = {"latents": latents(2), "positive": [prompt(1)], "steps": 3}
    full_disk.append(folders / "scedit")
    with pytest.raises(Exception, match=r"style.safetensors: expected to write the file there, .*No space left"):
        train(small_model(), **given)
    full_disk.clear()
    assert train(small_model(), **given)[3] == 3
    assert [plan["first_step"] for plan in events(folders, "plan")] == [0, 3]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "expected latents or a folder of pictures, found neither"),
        ({"folder": "nowhere"}, "expected latents or a folder of pictures, found none at"),
        ({"latents": "two"}, "positive: expected the captions of the latents, found none"),
        ({"latents": "two", "positive": 3}, "expected one caption for each of 2 pictures, or one for all, found 3"),
        ({"latents": "channels", "positive": 1}, "expected 4 channels"),
        ({"latents": "two", "positive": 1, "kind": "own hints"}, "expected hints of your own for this kind"),
        ({"latents": "two", "positive": 1, "kind": "own hints", "hints": (3, 64, 64)}, "one for each of 2 pictures"),
        ({"latents": "two", "positive": 1, "kind": "own hints", "hints": (2, 64, 96)}, "64x64 as its picture"),
        ({"latents": "two", "positive": 1, "kind": "canny"}, "found latents alone"),
    ],
)
def test_inputs_that_cannot_be_trained_on_are_refused_in_a_sentence(train, given, sentence):
    given = dict(given)
    if given.get("latents") == "two":
        given["latents"] = latents(2)
    elif "latents" in given:
        given["latents"] = [{"samples": torch.zeros(2, 16, 8, 8)}]
    if "positive" in given:
        given["positive"] = [prompt(i) for i in range(given["positive"])]
    if "hints" in given:
        given["hints"] = [torch.rand(*given["hints"], 3)]
    with pytest.raises(Exception, match=sentence):
        train(small_model(), **given)


def test_a_tuner_of_that_name_is_not_overwritten(pack, train, folders):
    path = folders / "scedit" / "style.safetensors"
    pack.core.save_tuner(sc_tuner(pack).tuner, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="name: expected one that no other tuner has"):
        train(small_model(), latents=latents(2), positive=[prompt(1)])
    assert path.read_bytes() == before


def test_own_hints_make_a_control_and_a_tuner_to_go_on_from_is_taken(pack, train):
    given = {"latents": latents(2), "positive": [prompt(1)], "hints": [torch.rand(2, 64, 64, 3)], "kind": "own hints"}
    sc, control, _, _ = train(small_model(), steps=2, name="first", **given)
    assert isinstance(sc, ExecutionBlocker)
    assert json.loads(control.tuner.tuner.metadata["scedit.condition"])["type"] == "custom"
    folder_paths.filename_list_cache.clear()
    other = train(small_model(), steps=1, start_from="first.safetensors", learning_rate=1e-7, **given)[1]
    assert distance(other.tuner.tuner, control.tuner.tuner) < 1e-4


def test_the_panel_says_blank_hints_and_the_verdict(training, train):
    """One hint of three is of one colour; validation is measured with previews."""
    hints = picture(3, 64, 64)
    hints[1] = 1.0
    given = {"latents": latents(3), "positive": [prompt(i) for i in range(3)], "hints": [hints], "preview_every": 2}
    train(small_model(), kind="own hints", condition="edges", steps=2, **given)
    shown = sys.modules[training.running.TrainingPage.__module__]._shown["style"]
    assert any(each.startswith("hints of one colour") and ": 1 (000001); " in each for each in shown["remarks"])
    assert shown["verdict"].startswith("The control ")
    assert "a gap of" in shown["verdict"]
    assert "(hold_out)" in shown["verdict"], "the widget, not the key of a YAML file"


def test_a_list_of_rates_trains_a_tuner_with_each_and_gives_the_best(pack, train, folders):
    """Each as it would be alone, in one pass of the encoder."""
    given = {"latents": latents(3), "positive": [prompt(i) for i in range(3)], "steps": 5, "preview_every": 5}
    sc = train(small_model(), learning_rate=[1e-3, 5e-3], sweep=True, **given)[0]
    result = json.loads((folders / "output" / "scedit" / "style" / "sweep.json").read_text())
    found = {row["label"]: row for row in result["tuners"]}
    for rate in (1e-3, 5e-3):
        alone = train(small_model(), learning_rate=rate, name=f"alone{rate}", **given)[0].tuner
        one = pack.core.load_tuner(found[f"learning_rate {rate:g}"]["file"])
        assert distance(one, alone) < 5e-4  # AdamW makes steps of rounding where a gradient is next to nothing
    best = min(found.values(), key=lambda row: row["loss"])
    assert result["best"] == best["label"]
    assert distance(sc.tuner, pack.core.load_tuner(best["file"])) == 0


def test_the_loss_map_is_what_core_plots(train):
    """comfy_extras/nodes_train.py, LossGraphNode: {"loss": a list of numbers}."""
    losses = train(small_model(), latents=latents(2), positive=[prompt(1)], steps=3)[2]
    assert set(losses) == {"loss"}
    assert [type(value) for value in losses["loss"]] == [float] * 3


def test_a_preview_is_what_ksampler_gives(pack, training, folders, train):
    """The same seed, steps, guidance, sampler and scheduler, with the tuner's file on the model."""
    model, text = small_model(), prompt(1)
    sc = train(model, latents=latents(1), positive=[text], batch=1, steps=2, preview_every=2, learning_rate=0.05)[0]
    previews = training.previews
    empty = [[torch.zeros_like(text[0][0]), {}]]
    shape = (1, 4, 8, 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(previews.SEED))
    options = {"steps": previews.STEPS, "cfg": previews.GUIDANCE, "sampler": "ddim", "scheduler": "sgm_uniform"}
    expected = sample(apply_sc(pack, model, sc), text, empty, noise, **options)
    states = training.base.TextStates(text[0][0]), training.base.TextStates(empty[0][0])
    held = pack.managed.ManagedTuner(sc.tuner, "t", "")
    patched = pack.patch.patched(model, pack.patch.SkipPatch(held, 1.0))
    found = previews.sample(patched, *states, shape[1:], previews.SEED)
    assert relative(found, expected) < 1e-6
    assert (folders / "output" / "scedit" / "style" / "previews" / "step-000002.jpg").is_file()


def test_it_trains_where_the_trainers_packages_are_missing(folders):
    """In a process in which diffusers, accelerate, pydantic, rich, jinja2 and matplotlib cannot be imported."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "bare_training.py"), str(folders)],
        env={**os.environ, "SCEDIT_TEST_PART": "in process"},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folders / "models" / "scedit" / "bare.safetensors").is_file()
