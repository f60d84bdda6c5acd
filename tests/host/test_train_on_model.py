"""Training on the MODEL in the host's process: equal to the command line's, each caption to its picture."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from conftest import PACK_NAME, PACK_ROOT
from small_model import TEXT_WIDTH, picture, prompt, randomise, relative, sample, small_model
from small_tuners import apply_sc, layout, sc_tuner
from train_on_model_widgets import WIDGETS

sys.path.append(str(Path(__file__).parent / "demo_nodes"))
import embedded_base
import kept_bytes


@pytest.fixture(scope="module")
def training(pack) -> SimpleNamespace:
    """The modules of nodes/training, and of the core's room for it."""
    own = ("frozen_layers", "host_base", "on_model", "picture_set", "previews", "running")
    shared = ("base", "chance", "event_log", "loop", "objective", "run_folder")
    found = {name: importlib.import_module(f"{PACK_NAME}.nodes.training.{name}") for name in own}
    found |= {name: importlib.import_module(f"{PACK_NAME}.scedit_core.fitting.{name}") for name in shared}
    return SimpleNamespace(**found)


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Empty output and input folders of the host, and an empty models/scedit."""
    for name in ("output", "input", "scedit"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "scedit", ([str(tmp_path / "scedit")], {".safetensors"}))
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.fixture
def train(pack, folders):
    """Run the node with some inputs changed, as the host does: all in lists."""

    def train(model, sweep=False, **changed):
        given = {"model": model, **WIDGETS, **changed}
        lists = ("latents", "positive", "hints")
        lists += tuple(key for key, value in given.items() if isinstance(value, list) and sweep)
        given = {key: value if key in lists else [value] for key, value in given.items()}
        return pack.nodes["SCEditTrainOnModel"].execute(**given).args

    return train


def latents(count: int, side: int = 8, seed: int = 0) -> list[dict]:
    """LATENTs of one picture each, as core's dataset nodes give them."""
    draw = torch.Generator().manual_seed(seed)
    return [{"samples": torch.randn(1, 4, side, side, generator=draw)} for _ in range(count)]


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
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COMFYUI_PATH")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(root / "sc.yaml"), str(root / "csc.yaml")],
        cwd=PACK_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
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
    code = Path(kept_bytes.__file__)
    done = subprocess.run(
        [sys.executable, str(code), str(PACK_ROOT)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
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


# ---- any MODEL ----


def gradients(training, model, tuner, **options) -> dict[str, torch.Tensor]:
    """Of the tuner's parameters for one step on `model`."""
    draw = torch.Generator().manual_seed(1)
    noisy, states = torch.randn(2, 4, 16, 16, generator=draw), torch.randn(2, 7, TEXT_WIDTH, generator=draw)
    pooled = torch.randn(2, 1280, generator=draw)
    sizes = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]] * 2)
    with torch.inference_mode(False), torch.enable_grad():
        base = training.host_base.HostBase(model, options.get("precision", "auto"), options.get("again", False), None)
        tuner.requires_grad_(True)
        for p in tuner.parameters():
            p.grad = None
        with base.loaded():
            text = training.base.TextStates(states, pooled if base.needs_sizes else None)
            out = base.predict(
                noisy, torch.tensor([100, 800]), text, sizes if base.needs_sizes else None, [(tuner, 1.0, None)]
            )
            out.float().square().mean().backward()
        assert not any("forward" in vars(module) for module in model.model.diffusion_model.modules())
    assert all(p.grad is None for p in model.model.parameters())
    return {name: p.grad.clone() for name, p in tuner.named_parameters()}


def trainable(pack, family: str = "sd1"):
    with torch.inference_mode(False):
        return randomise(pack.core.SCTuner(layout(pack, family)), 9)


def apart(found: dict, expected: dict) -> float:
    return max(relative(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_computing_again_and_other_precisions_give_the_same_gradients(pack, training, family):
    model, tuner = small_model(family), trainable(pack, family)
    expected = gradients(training, model, tuner)
    assert min(float(g.abs().max()) for g in expected.values()) > 0
    assert apart(gradients(training, model, tuner, again=True), expected) == 0
    assert apart(gradients(training, model, tuner, precision="bf16"), expected) < 0.1


@pytest.mark.parametrize(
    ("stored", "computed", "most"),
    [
        (torch.float16, torch.float32, 1e-5),
        (torch.bfloat16, torch.bfloat16, 0.1),
        (torch.float8_e4m3fn, torch.float32, 1e-5),
    ],
)
def test_weights_in_less_than_float32(pack, training, stored, computed, most):
    """The gradients of a float32 model with the same rounded weights."""
    tuner, rounded = trainable(pack), small_model()
    for p in rounded.model.diffusion_model.parameters():
        p.copy_(p.to(stored).float())
    expected = gradients(training, rounded, tuner)
    assert apart(gradients(training, small_model(dtype=stored, compute=computed), tuner), expected) < most


def test_a_lora_in_effect_is_trained_on(pack, training):
    """As a patch that the host adds to the weights: the same gradients as with the weights changed by hand."""
    tuner, key = trainable(pack), "diffusion_model.output_blocks.3.0.in_layers.2.weight"
    model = small_model()
    weight = model.model.get_parameter(key)
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)) * weight.std()
    patched = model.clone()
    patched.add_patches({key: ("diff", (change,))}, 0.5)
    plain, found = gradients(training, model, tuner), gradients(training, patched, tuner)
    comfy.model_management.unload_all_models()
    by_hand = small_model()
    by_hand.model.get_parameter(key).add_(0.5 * change)
    assert apart(found, gradients(training, by_hand, tuner)) < 1e-5
    assert apart(found, plain) > 1e-3


def test_another_tuner_in_effect_is_one_sum_with_the_trained_one(pack, training):
    """Both read the unedited skip, in whatever order."""
    tuner, other = trainable(pack), sc_tuner(pack)
    found = gradients(training, apply_sc(pack, small_model(), other, 0.7), tuner)
    model = small_model()
    original = training.host_base.HostBase.predict

    def both(self, noisy, timesteps, text, sizes, edits=()):
        return original(self, noisy, timesteps, text, sizes, [(other.tuner, 0.7, None), *edits])

    training.host_base.HostBase.predict = both
    try:
        expected = gradients(training, model, tuner)
    finally:
        training.host_base.HostBase.predict = original
    assert apart(found, expected) < 1e-5
    assert apart(found, gradients(training, model, tuner)) > 1e-3


def test_another_tuner_in_effect_for_a_part_of_the_schedule_edits_the_rows_of_that_part(pack, training):
    """Rows at timesteps 100 and 800: each as it is alone, whatever row comes first."""
    tuner, text = trainable(pack), torch.randn(2, 7, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    base = training.host_base.HostBase(apply_sc(pack, small_model(), sc_tuner(pack), end=0.5), "auto", False, None)
    timesteps = torch.tensor([100, 800])

    def said(rows: list[int]) -> torch.Tensor:
        states = training.base.TextStates(text[rows])
        return base.predict(noisy[rows], timesteps[rows], states, None, [(tuner, 1.0, None)]).detach()

    with torch.inference_mode(False), base.loaded():
        alone = torch.cat([said([0]), said([1])])
        assert relative(said([0, 1]), alone) < 1e-4
        assert relative(said([1, 0]), alone[[1, 0]]) < 1e-4


def test_layers_cast_whatever_the_host_offloads_meanwhile(training):
    """In another precision than the weights': the host offloads layers, and takes them back, when it loads a VAE."""
    unet = small_model().model.diffusion_model
    back, gone = [layer for layer in unet.modules() if getattr(layer, "comfy_cast_weights", None) is False][:2]

    def offload(layer: torch.nn.Module) -> None:  # as ModelPatcher.load does
        layer.prev_comfy_cast_weights, layer.comfy_cast_weights = layer.comfy_cast_weights, True

    offload(back)
    with training.frozen_layers.trained_through(unet, False, True):
        comfy.model_patcher.wipe_lowvram_weight(back)
        offload(gone)
        assert back.comfy_cast_weights
        assert gone.comfy_cast_weights
    assert not back.comfy_cast_weights
    assert gone.comfy_cast_weights  # still offloaded
    comfy.model_patcher.wipe_lowvram_weight(gone)
    assert not any(getattr(layer, "comfy_cast_weights", False) for layer in unet.modules())


def test_zero_terminal_snr_and_velocity_are_seen(training):
    import comfy_extras.nodes_model_advanced as advanced

    model = small_model()
    assert training.host_base.HostBase(model, "auto", False, None).prediction == "epsilon"
    (changed,) = _outputs(advanced.ModelSamplingDiscrete, model, "v_prediction", True)
    base = training.host_base.HostBase(changed, "auto", False, None)
    assert base.prediction == "v_prediction"
    assert base.alphas_cumprod[-1] == 0
    continuous = _outputs(advanced.ModelSamplingContinuousEDM, model, "edm", 120.0, 0.002)[0]
    few = _outputs(advanced.ModelSamplingDiscrete, model, "lcm", False)[0]  # 50 of the timesteps, told by other numbers
    for other in (continuous, few):
        with pytest.raises(Exception, match="predicts noise or velocity"):
            training.host_base.HostBase(other, "auto", False, None)


def _outputs(node, *values):
    """Of a node of the host, whichever of its two schemas it has."""
    execute = getattr(node, "execute", None)
    return execute(*values).args if execute else getattr(node(), node.FUNCTION)(*values)


def test_an_inpainting_model_is_trained_on_an_empty_mask(train):
    _, _, losses, _ = train(small_model(in_channels=9), latents=latents(2), positive=[prompt(1)], steps=2)
    assert len(losses["loss"]) == 2


def test_what_cannot_be_trained_through_is_taken_off_and_said(training, train, folders):
    import comfy_extras.nodes_freelunch as freelunch

    (model,) = _outputs(freelunch.FreeU_V2, small_model(), 1.3, 1.4, 0.9, 0.2)
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


def test_a_loss_that_is_no_number_stops_and_says_so(train):
    bad = [{"samples": torch.full((1, 4, 8, 8), float("nan"))}]
    with pytest.raises(Exception, match="step 1: expected a finite loss, found nan"):
        train(small_model(), latents=bad, positive=[prompt(1)], batch=1)


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
        ({"latents": "two", "positive": 1, "kind": "own hints", "hints": (2, 64, 96)}, "the shape of their pictures"),
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
