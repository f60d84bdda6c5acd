"""Training on the MODEL in the host's process: equal to the command line's, row by row, and what comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import comfy.sd
import folder_paths
import pytest
import torch
import warm
from comfy_execution.graph_utils import ExecutionBlocker
from conftest import PACK_ROOT
from run_left import distance, events
from small_model import TEXT_WIDTH, outputs_of, picture, prompt, relative, sample, small_model
from small_tuners import apply_sc
from train_on_model_widgets import latents

sys.path.append(str(Path(__file__).parent / "demo_nodes"))
import embedded_base
import kept_bytes

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
    assert plain[2]["loss"] == [event["loss"] for event in events(folders, "step")]


# ---- what comes out ----


def test_a_lora_in_bypass_mode_is_taken_off_and_said(train, folders):
    if not hasattr(comfy.sd, "load_bypass_lora_for_models"):
        pytest.skip("this ComfyUI has no bypass mode")
    weights = {}
    for name, layer in small_model().model.diffusion_model.named_modules():
        if isinstance(layer, torch.nn.Linear) and "attn" in name:
            weights[f"diffusion_model.{name}.lora_up.weight"] = torch.randn(layer.out_features, 2)
            weights[f"diffusion_model.{name}.lora_down.weight"] = torch.randn(2, layer.in_features)
    given = {"latents": latents(2), "positive": [prompt(1)], "steps": 2}
    plain = train(small_model(), name="plain", **given)[2]
    model, _ = comfy.sd.load_bypass_lora_for_models(small_model(), None, weights, 1.0, 0)
    assert train(model, name="bypass", **given)[2] == plain
    (remarks,) = events(folders, "remarks", "bypass")
    assert any("not used while training: bypass_lora" in each["text"] for each in remarks["remarks"])


def test_previews_of_a_control_that_completes_hide_what_validation_hides(train, training, monkeypatch):
    """Not the whole picture, from which every control would seem to complete."""
    seen, measured = [], []
    monkeypatch.setattr(training.previews, "STEPS", 1)
    hint, batch_of = training.previews.Hint, training.picture_set.PictureSet.batch_of

    def noted(managed, shown, *more):
        seen.append(shown)
        return hint(managed, shown, *more)

    def batch(self, examples):
        made = batch_of(self, examples)
        measured.extend(made.hints)
        return made

    monkeypatch.setattr(training.previews, "Hint", noted)
    monkeypatch.setattr(training.picture_set.PictureSet, "batch_of", batch)
    train(
        embedded_base.load_model(),
        folder=str(PACK_ROOT / "demo" / "style"),
        vae=embedded_base.DemoVAE(),
        clip=embedded_base.DemoText(),
        kind="completion",
        steps=1,
        preview_every=1,
    )
    assert len(seen) == 2
    for shown in seen:
        assert (shown[0].amax(0) == 0).float().mean() > 0.05
        assert any(torch.equal(shown[0], each) for each in measured)


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
    (own, figures, learnt), (hint, _, _) = shown["verdict"]
    assert (own, hint[:5]) == ("seen", "hint_")
    assert set(figures) == {"whole"}
    assert learnt.startswith("The control ")
    assert "(hold_out)" in learnt, "the widget, not the key of a YAML file"


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
