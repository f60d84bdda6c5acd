"""Previews and validation on a tiny base with real data: what is drawn, what is measured, and what stays as it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import events, run_folder, train

from scedit_core import CSCTuner, SCTuner
from scedit_core.errors import ConditionError
from scedit_core.fitting.objective import Objective
from scedit_core.fitting.validation import Validation, quantiles
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.hint_making import Hints
from training.data.opening import open_data
from training.memory.preparing import prepare_unet
from training.seeing.previews import Previews, scenes_of
from training.seeing.sampling import preview_scheduler, sample, starting_noise, trailing_timesteps
from training.seeing.sheets import draw_sheet


@pytest.fixture(scope="module")
def base(base_folder):
    return load_base(base_folder)


def prepared(base, values, **changes):
    """A configuration with changes such as previews={"steps": 2}, and its training set."""
    config = parse_config({**values, **changes})
    return config, open_data(base, config)


def loud(tuner):
    """A tuner whose edits can be seen."""
    torch.manual_seed(3)
    for p in tuner.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return tuner


def test_a_style_is_drawn_with_and_without(base, values):
    config, data = prepared(base, values, previews={"steps": 2, "count": 2})
    previews, tuner = Previews(config, base, data), loud(SCTuner(base.layout))
    state = torch.get_rng_state()
    path = previews.draw(250, tuner)
    assert torch.equal(torch.get_rng_state(), state)
    assert path == config.run_folder / "previews" / "step-000250.jpg"
    pictures = previews.folder / "pictures"
    without, with_it = (np.asarray(Image.open(pictures / f"{row}-0.jpg"), int) for row in ("without", "step-000250"))
    assert without.shape == (64, 64, 3)
    assert abs(without - with_it).mean() > 0.3  # the same latents make the same bytes
    assert [s.prompt for s in previews.scenes] == [e.caption for e in data.held[:2]]
    assert not any(base.unet.up_blocks[i]._forward_pre_hooks for i in range(3))


def test_the_grid_grows_and_forgets_what_a_new_start_has_not_reached(base, control_values):
    config, data = prepared(base, control_values, previews={"steps": 1, "count": 1})
    tuner = loud(CSCTuner(base.layout, stem_width=32))
    heights = []
    for step in (5, 10):
        Previews(config, base, data).draw(step, tuner)
        heights.append(Image.open(config.run_folder / "previews" / "grid.jpg").height)
    assert heights[1] > heights[0]
    kept = config.run_folder / "previews" / "pictures"
    assert {p.name for p in kept.glob("*.jpg")} == {
        f"{r}-0.jpg" for r in ("hint", "without", "step-000005", "step-000010")
    }
    Previews(config, base, data).draw(5, tuner)
    assert not (kept / "step-000010-0.jpg").exists()
    assert Image.open(config.run_folder / "previews" / "grid.jpg").height == heights[0]
    other = config.model_copy(update={"previews": config.previews.model_copy(update={"seed": 9})})
    before = (kept / "without-0.jpg").read_bytes()
    Previews(other, base, data).draw(15, tuner)
    assert {p.name for p in kept.glob("*.jpg")} == {f"{r}-0.jpg" for r in ("hint", "without", "step-000015")}
    assert (kept / "without-0.jpg").read_bytes() != before


def test_hints_of_files_are_made_as_in_training(base, control_values, tmp_path):
    picture = np.zeros((90, 90, 3), np.uint8)
    picture[30:60, 30:60] = 255
    Image.fromarray(picture).save(tmp_path / "square.png")
    wanted = {"steps": 1, "hints": [str(tmp_path / "square.png")], "prompts": ["a house", "a star"]}
    config, data = prepared(base, control_values, previews=wanted)
    scenes = scenes_of(config, data)
    assert [s.prompt for s in scenes] == ["a house", "a star"]
    for scene in scenes:
        assert scene.hint.shape == (1, 3, 64, 64)
        assert 0.02 < scene.hint.mean() < 0.2  # an outline, not the square itself
        assert set(scene.hint.unique().tolist()) == {0.0, 1.0}


def test_ready_hints_stay_as_they_are(base, control_values, pictures_folder, tmp_path):
    folder = tmp_path / "hints"
    folder.mkdir()
    for path in pictures_folder.glob("*.png"):
        Image.new("RGB", Image.open(path).size, (255, 0, 0)).save(folder / path.name)
    control_values["data"] |= {"condition": {"type": "custom", "name": "red"}, "hints": str(folder)}
    Image.new("RGB", (64, 64), (0, 255, 0)).save(tmp_path / "green.png")
    config, data = prepared(base, control_values, previews={"hints": [str(tmp_path / "green.png")]})
    assert scenes_of(config, data)[0].hint.mean((0, 2, 3)).tolist() == [0, 1, 0]
    assert scenes_of(config.model_copy(update={"previews": type(config.previews)()}), data)[0].hint[0, 0].min() == 1


def test_a_sample_is_what_the_pipeline_makes(base):
    """The pipeline of diffusers with the same steps is the reference: with the same solver, and with DDIM, whose other
    way to the same numbers rounds otherwise where the first step divides by an alpha of 0.07 (1.6e-5)."""
    config = parse_config({"base": "b", "output": "o.safetensors", "tuner": {"kind": "sc"}, "data": {"folder": "d"}})
    scheduler, ddim = preview_scheduler(base, config.objective), base.pipeline.scheduler
    text = base.encode_captions(["ugly", "a red star"])
    made = sample(base, scheduler, text, starting_noise(64, 64, 7), steps=4, guidance=4.0)
    same_steps = {"timesteps": trailing_timesteps(4, 1000)}
    even_steps = {"num_inference_steps": 4}  # of a number that divides 1000 DDIM makes even steps
    for solver, steps, bound in ((scheduler, same_steps, 1e-5), (ddim, even_steps, 5e-5)):
        base.pipeline.scheduler = solver
        try:
            reference = base.pipeline(
                "a red star",
                negative_prompt="ugly",
                latents=starting_noise(64, 64, 7),
                height=64,
                width=64,
                guidance_scale=4.0,
                output_type="latent",
                **steps,
            ).images
        finally:
            base.pipeline.scheduler = ddim
        assert (made - reference).abs().max() < bound


@pytest.mark.parametrize("zero_snr", [False, True])
def test_timesteps_of_any_number_of_steps_are_trailing_and_none_is_below_zero(base, zero_snr):
    """From 1 to 200, as a configuration may ask; the scheduler takes these, and as many sigmas and a last of zero."""
    config = parse_config({"base": "b", "output": "o.safetensors", "tuner": {"kind": "sc"}, "data": {"folder": "d"}})
    objective = config.objective.model_copy(update={"zero_terminal_snr": zero_snr or "auto"})
    scheduler = preview_scheduler(base, objective)
    for steps in range(1, 201):
        scheduler.set_timesteps(timesteps=trailing_timesteps(steps, 1000))
        taken = scheduler.timesteps.tolist()
        assert len(taken) == steps == len(scheduler.sigmas) - 1
        assert taken[0] == 999
        assert taken[-1] == round(1000 / steps) - 1 >= 0
        assert max(abs(t - (1000 * (steps - i) / steps - 1)) for i, t in enumerate(taken)) <= 0.5
        assert scheduler.sigmas[-1] == 0
        assert (scheduler.sigmas.diff() < 0).all()
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="found"):
            trailing_timesteps(steps, 1000)


def test_61_steps_draw_what_60_and_62_draw(base):
    """A list of diffusers' own for 61 has 62 timesteps, of which the last is -1 and ruins the picture."""
    config = parse_config({"base": "b", "output": "o.safetensors", "tuner": {"kind": "sc"}, "data": {"folder": "d"}})
    scheduler = preview_scheduler(base, config.objective)
    text = base.encode_captions(["", "a red star"])
    made = {n: sample(base, scheduler, text, starting_noise(64, 64, 7), n, 1.0) for n in (60, 61, 62)}
    apart = {n: (made[n] - made[61]).abs().mean().item() for n in (60, 62)}
    size = made[61].abs().mean().item()
    assert max(apart.values()) < 0.02 * size, (apart, size)


def test_sampling_that_breaks_off_leaves_the_base_as_it_was(base, monkeypatch):
    config = parse_config({"base": "b", "output": "o.safetensors", "tuner": {"kind": "sc"}, "data": {"folder": "d"}})
    scheduler, text = preview_scheduler(base, config.objective), base.encode_captions(["", ""])

    def leave(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(scheduler, "step", leave)
    with pytest.raises(InterruptedError):
        sample(base, scheduler, text, starting_noise(64, 64, 1), 3, 4.0, SCTuner(base.layout))
    assert not base.unet.up_blocks[0]._forward_pre_hooks


def test_validation_is_the_loss_at_fixed_problems(base, values):
    config, data = prepared(base, values, validation={"images": 2, "timesteps": 3})
    validation, tuner = Validation(config, base, data), loud(SCTuner(base.layout))
    found = validation.measure(tuner)
    assert found == validation.measure(tuner)
    assert found["images"] == 2
    assert [row["timestep"] for row in found["by_timestep"]] == [166, 500, 833]
    assert "loss_other_hint" not in found
    fresh = Validation(config, base, data).measure(SCTuner(base.layout))  # whose last layers are zero
    assert fresh["loss_with"] == fresh["loss_without"] == found["loss_without"]
    assert found["loss_with"] != found["loss_without"]
    assert found["loss_without"] == pytest.approx(sum(r["loss_without"] for r in found["by_timestep"]) / 3)
    # One of the problems by hand.
    batch = data.batch_of([data.held[0]])
    noise = torch.randn(batch.latents.shape, generator=generator(config.loop.seed, 0))
    problem = Objective(base.alphas_cumprod, base.prediction, config.objective).at(
        batch.latents, noise, torch.tensor([500])
    )
    with torch.no_grad():
        said = base.unet(problem.noisy, 500, batch.text.states).sample
    by_hand = (said - problem.target).square().mean().item()
    first = Validation(config.model_copy(update={"validation": one_image(config)}), base, data).measure(tuner)
    assert first["by_timestep"][1]["loss_without"] == pytest.approx(by_hand, rel=1e-5)


def generator(seed, index):
    from scedit_core.fitting.chance import generator_for

    return generator_for(seed, index, "validation")


def one_image(config):
    return config.validation.model_copy(update={"images": 1})


def test_validation_tells_the_hint_apart(base, control_values):
    config, data = prepared(base, control_values, validation={"images": 1, "timesteps": 2})
    tuner = loud(CSCTuner(base.layout, stem_width=32))
    found = Validation(config, base, data).measure(tuner)
    assert len({found["loss_with"], found["loss_without"], found["loss_other_hint"]}) == 3
    assert set(found["by_timestep"][0]) == {"timestep", "loss_with", "loss_without", "loss_other_hint"}


def test_batches_of_validation_do_not_change_it(base, values):
    values["loop"]["batch"] = 1
    config, data = prepared(base, values, validation={"images": 1, "timesteps": 4})
    one = Validation(config, base, data).measure(SCTuner(base.layout))
    values["loop"]["batch"] = 3
    three = Validation(parse_config({**values, "validation": {"images": 1}}), base, data).measure(SCTuner(base.layout))
    assert one["loss_with"] == pytest.approx(three["loss_with"], rel=1e-5)


@pytest.mark.parametrize(("count", "of", "middles"), [(1, 1000, [500]), (4, 1000, [125, 375, 625, 875])])
def test_quantiles_are_middles(count, of, middles):
    assert quantiles(count, of) == middles


def test_a_condition_is_found_again_in_the_result(control_values):
    """On a tiny base the pictures are noise; what counts is that the number is that of the files."""
    control_values |= {"tensorboard": False, "validation": {"every": 0}}
    control_values["previews"] = {"every": 2, "count": 2, "steps": 2}
    train(control_values)
    folder = run_folder(control_values) / "previews"
    (preview,) = events(control_values, "preview")
    made = [np.asarray(Image.open(folder / "found" / f"step-000002-{i}.jpg"), float) / 255 for i in range(2)]
    hints = [np.asarray(Image.open(folder / "pictures" / f"hint-{i}.jpg"), float) / 255 for i in range(2)]
    expected = np.mean([abs(a - b).mean() for a, b in zip(made, hints, strict=True)])
    assert preview["found_again"] == pytest.approx(expected, abs=0.02)  # the files are JPEGs
    assert 0 < expected < 1
    assert Image.open(folder / "trained.jpg").width > 300


def test_a_detector_that_is_gone_costs_what_it_would_find_and_nothing_else(control_values, monkeypatch):
    """Hints lie in the cache by then."""
    control_values |= {"tensorboard": False, "validation": {"every": 0}, "previews": {"every": 0}}
    train(control_values)

    def gone(self, picture):
        raise ConditionError("depth: expected a detector, found none; fetch it")

    monkeypatch.setattr(Hints, "make", gone)
    control_values["loop"]["steps"] = 4
    control_values["previews"] = {"every": 2, "count": 1, "steps": 1}
    assert train(control_values) is not None
    (preview,) = events(control_values, "preview")
    assert "found_again" not in preview
    assert (run_folder(control_values) / "previews" / "step-000004.jpg").is_file()


def test_a_sheet_takes_any_sizes_and_gaps(tmp_path):
    wide, tall = Image.new("RGB", (200, 100), (255, 0, 0)), Image.new("L", (50, 100), 255)
    rows = [("first", [wide, tall]), ("a label that is far too long for its place in any case", [None, tall])]
    path = draw_sheet(tmp_path / "new" / "sheet.jpg", ["one " * 40, ""], rows, 128)
    sheet = np.asarray(Image.open(path))
    assert list(tmp_path.rglob("*")) == [path.parent, path]
    assert (abs(sheet.astype(int) - [255, 0, 0]).max(-1) < 40).sum() == pytest.approx(
        128 * 64, rel=0.06
    )  # JPEG blurs borders


def test_sdxl_is_told_the_size_of_what_is_drawn(tmp_path):
    """Previews and validation on a small SDXL; the pipeline of diffusers is the reference for sizes and pooled text."""
    small = module_beside("small_checkpoints")
    small.small_pipeline("sdxl", small.write_tokenizer(tmp_path / "words")).save_pretrained(tmp_path / "base")
    base = load_base(tmp_path / "base")
    write_picture(tmp_path / "set" / "wide.png", (128, 64))
    config = parse_config(
        {
            "base": str(tmp_path / "base"),
            "output": str(tmp_path / "tuner.safetensors"),
            "tuner": {"kind": "sc"},
            "data": {"folder": str(tmp_path / "set"), "resolution": 128, "captions": "none", "max_aspect": 4},
            "previews": {"steps": 1},
            "validation": {"timesteps": 1},
        }
    )
    text = base.encode_captions(["ugly", "a red star"])
    scheduler = preview_scheduler(base, config.objective)
    made = sample(base, scheduler, text, starting_noise(64, 128, 7), steps=2, guidance=4.0)
    base.pipeline.scheduler, of_the_checkpoint = scheduler, base.pipeline.scheduler
    reference = base.pipeline(
        "a red star",
        negative_prompt="ugly",
        latents=starting_noise(64, 128, 7),
        height=64,
        width=128,
        num_inference_steps=2,
        guidance_scale=4.0,
        output_type="latent",
    ).images
    base.pipeline.scheduler = of_the_checkpoint
    assert torch.allclose(made, reference, atol=1e-4 * float(reference.abs().max()))
    data = open_data(base, config)
    assert Image.open(Previews(config, base, data).draw(1, SCTuner(base.layout))).width > 100
    assert Validation(config, base, data).measure(SCTuner(base.layout))["loss_with"] > 0


def write_picture(path, size):
    path.parent.mkdir()
    Image.effect_noise(size, 90).convert("RGB").save(path)


def module_beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_saves_memory_hardly_changes_what_is_seen(base_folder, control_values):
    base = load_base(base_folder)
    config, data = prepared(base, control_values, previews={"steps": 1, "count": 1}, validation={"images": 1})
    tuner = loud(CSCTuner(base.layout, stem_width=32))
    before = Validation(config, base, data).measure(tuner)
    memory = config.memory.model_copy(update={"checkpointing": True, "frozen_convolutions": True, "fp8": True})
    prepare_unet(base.unet, memory, torch.float32)
    after = Validation(config, base, data).measure(tuner)
    for key in ("loss_with", "loss_without", "loss_other_hint"):
        assert after[key] != before[key]
        assert after[key] == pytest.approx(before[key], rel=0.05)
    assert Previews(config, base, data).draw(1, tuner).is_file()
