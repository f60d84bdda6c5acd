"""A control learns from a ControlNet: what each phase asks for, what it keeps in memory, and whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image
from rich.console import Console
from torch import Tensor

from scedit_core import CSCTuner, SCEditError, load_tuner
from scedit_core.errors import ConfigError
from scedit_core.fitting.base import Added
from scedit_core.fitting.distilling import PICTURES, PREDICTIONS, RESIDUALS, Lessons, Phases
from scedit_core.fitting.objective import loss_of
from scedit_core.fitting.step import TrainingStep
from training.bases.loading import load_base
from training.bases.teacher import load_teacher
from training.config import ObjectiveConfig
from training.config_file import parse_config
from training.loop import train
from training.seeing.sampling import preview_scheduler, sample, starting_noise


@pytest.fixture(scope="module")
def controlnet(base_folder, tmp_path_factory) -> Path:
    """A ControlNet of the tiny base whose residuals are not small."""
    network = ControlNetModel.from_unet(load_base(base_folder).unet)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
                p.copy_(torch.randn(p.shape, generator=draw) * 0.1)
    folder = tmp_path_factory.mktemp("controlnet") / "edges"
    network.save_pretrained(folder)
    return folder


@pytest.fixture
def taught_values(control_values, controlnet) -> dict:
    """A run of two updates of each phase."""
    control_values |= {"previews": {"every": 0}, "validation": {"every": 0}, "tensorboard": False}
    control_values["teacher"] = {"controlnet": str(controlnet), "residuals": 2, "predictions": 2}
    control_values["loop"] |= {"steps": 6, "learning_rate": 1e-3}
    return control_values


@pytest.fixture(scope="module")
def school(base_folder, controlnet):
    """Base, teacher, a student with random weights, and one batch."""
    base = load_base(base_folder)
    torch.manual_seed(2)
    student = CSCTuner(base.layout, stem_width=32)
    with torch.no_grad():
        for p in student.parameters():
            p.copy_(torch.randn(p.shape) * 0.05)
    draw = torch.Generator().manual_seed(1)
    batch = {
        "noisy": torch.randn(2, 4, 8, 8, generator=draw),
        "timesteps": torch.tensor([10, 700]),
        "hints": torch.rand(2, 3, 64, 64, generator=draw),
        "text": base.encode_captions(["a red star", ""]),
        "sizes": None,
    }
    return base, load_teacher(controlnet, base, torch.float32), student, batch


def run(values: dict, **options) -> Path | None:
    return train(parse_config(values), Console(quiet=True), **options)


def events(values: dict, kind: str) -> list[dict]:
    lines = Path(values["output"]).with_suffix(".run").joinpath("events.jsonl").read_text("utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_skips_are_those_of_the_whole_forward(school):
    base, _, _, batch = school
    seen: list[Tensor] = []

    def before_up(_module, _args, kwargs) -> None:
        skips = kwargs["res_hidden_states_tuple"]
        seen.extend(reversed(skips[-len(_module.resnets) :]))

    handles = [b.register_forward_pre_hook(before_up, with_kwargs=True) for b in base.unet.up_blocks]
    inputs = {k: v for k, v in batch.items() if k != "hints"}
    with torch.no_grad():
        base.predict(**inputs)
    for handle in handles:
        handle.remove()
    found = base.skips(**inputs)
    assert len(found) == len(base.layout) == len(seen)
    assert all(torch.equal(a, b) for a, b in zip(found, seen, strict=True))
    assert not any(skip.requires_grad for skip in found)


def test_added_residuals_are_what_diffusers_adds(school):
    base, teacher, _, batch = school
    inputs = {k: v for k, v in batch.items() if k != "hints"}
    added = teacher.residuals(**batch)
    with torch.no_grad():
        made = base.predict(**inputs, added=added)
        own = base.unet(
            batch["noisy"],
            batch["timesteps"],
            batch["text"].states,
            down_block_additional_residuals=tuple(added.skips[::-1]),
            mid_block_additional_residual=added.middle,
        ).sample
        plain = base.predict(**inputs)
    assert torch.equal(made, own)
    assert not torch.allclose(made, plain, rtol=1e-2)


def test_what_adds_to_a_skip_alone_is_no_t2i_adapter(school):
    base, teacher, _, batch = school
    inputs = {k: v for k, v in batch.items() if k != "hints"}
    added = teacher.residuals(**batch)
    alone = [None] * len(added.skips)
    alone[-1] = added.skips[-1]  # of the uppermost block, at the last of the decoder
    zeros = [torch.zeros_like(each) for each in added.skips[:-1]]
    with torch.no_grad():
        made = base.predict(**inputs, added=Added(alone))
        whole = base.predict(**inputs, added=Added([*zeros, added.skips[-1]], torch.zeros_like(added.middle)))
        plain = base.predict(**inputs)
    assert torch.equal(made, whole)
    assert not torch.allclose(made, plain, rtol=1e-2)


def test_errors_of_residuals_are_shares_of_what_the_teacher_adds(school):
    base, teacher, student, batch = school
    wanted = teacher.residuals(**batch).skips
    with torch.no_grad():
        errors = TrainingStep(base, student)(**batch, wanted=wanted)
        skips = base.skips(*(batch[k] for k in ("noisy", "timesteps", "text", "sizes")))
        features = student.encode_hint(batch["hints"])
        by_hand = []
        for b in student.blocks:
            ours = student.residual(b, skips[b], features[b])
            rows = (ours - wanted[b]).square().mean((1, 2, 3)).double()
            by_hand.append(rows / wanted[b].double().square().mean())
        own = [student.residual(b, skips[b], features[b]) for b in range(len(skips))]
        nothing = TrainingStep(base, student)(**batch, wanted=own)
    torch.testing.assert_close(errors.double(), torch.stack(by_hand).mean(0), rtol=1e-5, atol=0)
    assert nothing.max() < 1e-12  # a student that adds what its teacher adds makes no mistake


def test_a_student_with_a_scale_adds_its_residuals_times_that(school, monkeypatch):
    """As one that begins from a released control, whose file states a scale."""
    base, _, student, batch = school
    monkeypatch.setitem(student.metadata, "scedit.scale", "0.5")
    with torch.no_grad():
        skips = base.skips(*(batch[k] for k in ("noisy", "timesteps", "text", "sizes")))
        features = student.encode_hint(batch["hints"])
        added = [0.5 * student.residual(b, skips[b], features[b]) for b in range(len(skips))]
        assert TrainingStep(base, student)(**batch, wanted=added).max() < 1e-12


def test_masked_places_do_not_count(school):
    base, teacher, student, batch = school
    wanted = teacher.residuals(**batch).skips
    masks = torch.zeros(2, 1, 8, 8)
    masks[..., :4] = 1
    spoiled = [w.clone() for w in wanted]
    for each in spoiled:
        each[..., each.shape[-1] // 2 :] += 100
    with torch.no_grad():
        step = TrainingStep(base, student)
        assert torch.equal(step(**batch, wanted=wanted, masks=masks), step(**batch, wanted=spoiled, masks=masks))
        whole = step(**batch, wanted=wanted, masks=torch.ones(2, 1, 8, 8))
        torch.testing.assert_close(whole, step(**batch, wanted=wanted), rtol=1e-6, atol=0)


def test_residuals_keep_nothing_of_the_base(school):
    base, teacher, student, batch = school
    wanted = teacher.residuals(**batch).skips
    skips = base.skips(*(batch[k] for k in ("noisy", "timesteps", "text", "sizes")))
    own = {p.data_ptr() for p in student.parameters()}

    def kept(make) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive = make()
        assert alive.requires_grad
        return sum(size for pointer, size in sizes.items() if pointer not in own)

    def alone() -> Tensor:
        features = student.encode_hint(batch["hints"].contiguous(memory_format=torch.channels_last))
        made = [student.residual(b, skips[b], features[b]) - wanted[b] for b in student.blocks]
        return torch.stack([each.square().mean() for each in made]).mean()

    residuals = kept(lambda: TrainingStep(base, student)(**batch, wanted=wanted).mean())
    pictures = kept(lambda: TrainingStep(base, student)(**batch).square().mean())
    assert residuals <= 1.02 * kept(alone)
    assert residuals < 0.8 * pictures


class Recorder:
    """A step module that says how it was called and answers with fixed values."""

    def __init__(self, answer: Tensor) -> None:
        self.answer, self.wanted = answer, None

    def __call__(self, *inputs, wanted=None, masks=None) -> Tensor:
        self.wanted = wanted
        return self.answer


def test_each_phase_asks_for_its_own(school):
    from scedit_core.fitting.batches import Batch
    from scedit_core.fitting.objective import Objective
    from scedit_core.fitting.settings import ObjectiveSettings

    base, teacher, _, batch = school
    lessons = Lessons(base, teacher, Phases(2, 3), 6)
    assert [lessons.phase(step) for step in range(6)] == [RESIDUALS] * 2 + [PREDICTIONS] * 3 + [PICTURES]
    problem = Objective(base.alphas_cumprod, base.prediction, ObjectiveSettings()).at(
        torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), batch["timesteps"]
    )
    rows = Batch(problem.noisy, batch["text"], None, batch["hints"], None, torch.tensor([1.0, 0.0]))
    errors, answer = Recorder(torch.tensor([3.0, 100.0])), Recorder(torch.randn(2, 4, 8, 8))
    assert lessons.loss(errors, 0, problem, batch["hints"], None, rows) == 1.5  # the second row has no weight
    assert len(errors.wanted) == len(base.layout)
    inputs = (problem.noisy, problem.timesteps, batch["text"], None)
    with torch.no_grad():
        target = base.predict(
            *inputs, added=teacher.residuals(problem.noisy, problem.timesteps, batch["hints"], *inputs[2:])
        )
    loss = lessons.loss(answer, 2, problem, batch["hints"], None, rows)
    torch.testing.assert_close(loss, (answer.answer[0] - target[0]).square().mean() / 2, rtol=1e-5, atol=0)
    assert answer.wanted is None
    loss = lessons.loss(answer, 5, problem, batch["hints"], None, rows)
    assert torch.equal(loss, loss_of(answer.answer, problem, None, rows.weights))


@pytest.mark.parametrize(
    ("said", "steps", "captioned", "expected"),
    [
        ((None, None), 1000, True, (250, 0)),
        ((None, None), 1000, False, (500, 500)),
        ((None, None), 3, False, (1, 2)),
        ((100, None), 1000, True, (100, 0)),
        ((100, None), 1000, False, (100, 900)),
        ((None, 300), 1000, True, (0, 300)),
        ((None, 300), 1000, False, (700, 300)),
        ((10, 20), 1000, True, (10, 20)),
    ],
)
def test_phases_that_nothing_is_said_of(said, steps, captioned, expected):
    assert Phases(*said, captioned).of(steps) == expected


def test_a_run_says_what_it_was_taught(taught_values, controlnet):
    path = run(taught_values)
    tuner = load_tuner(path)
    told = json.loads(tuner.metadata["scedit.teacher"])
    assert (told["name"], told["residuals"], told["predictions"]) == ("edges", 2, 2)
    assert len(told["digest"]) == 16
    assert json.loads(tuner.metadata["scedit.condition"])["type"] == "canny"
    (plan,) = events(taught_values, "plan")
    assert plan["teacher"] == {"name": "edges", "residuals": 2, "predictions": 2, "pictures": 2}


def test_phases_longer_than_the_run_are_remarked(taught_values):
    for predictions, remarked in ((2, False), (9, True)):
        taught_values["teacher"]["predictions"] = predictions
        if remarked:
            taught_values["output"] = taught_values["output"].replace("tuner", "other")
        run(taught_values)
        told = [remark["text"] for remark in events(taught_values, "remarks")[-1]["remarks"]]
        assert any("are 2 and 9 in a run of 6 steps, which ends before they do" in each for each in told) == remarked


def test_a_student_comes_nearer_to_its_teacher(taught_values):
    taught_values["teacher"] |= {"residuals": 40, "predictions": 0}
    taught_values["loop"] |= {"steps": 40, "learning_rate": 1e-2, "batch": 4, "schedule": "constant"}
    run(taught_values)
    losses = [event["loss"] for event in events(taught_values, "step")]
    assert losses[0] == pytest.approx(1, abs=0.02)  # it adds nothing yet
    assert sum(losses[-5:]) / 5 < 0.7


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_resumes_in_its_phase_bit_for_bit(taught_values, tmp_path, stop, monkeypatch):
    whole = load_tuner(run(taught_values)).state_dict()
    folder = Path(taught_values["output"]).with_suffix(".run")
    taught_values["output"] = str(tmp_path / "again/tuner.safetensors")
    from scedit_core.fitting.run_folder import RunFolder

    asked = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "stop_wish", lambda _self: "a test" if next(asked) + 1 == stop else None)
        assert run(taught_values) is None
    resumed = load_tuner(run(taught_values)).state_dict()
    assert folder.is_dir()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("said", ["none of several folders", "optional, and there are none"])
def test_pictures_without_captions_are_seen_to_have_none(taught_values, controlnet, tmp_path, said):
    """They are half residuals, half predictions, wherever it is said; a run that began otherwise goes on as it did."""
    taught_values["teacher"] = {"controlnet": str(controlnet)}
    taught_values["loop"]["steps"] = 4
    folder = shutil.copytree(taught_values["data"].pop("folder"), tmp_path / "plain")
    if said == "none of several folders":
        taught_values["data"]["folders"] = [{"folder": str(folder), "captions": "none"}]
    else:
        for path in folder.glob("*.txt"):
            path.unlink()
        taught_values["data"] |= {"folder": str(folder), "captions": "optional"}
    run(taught_values)
    (plan,) = events(taught_values, "plan")
    assert plan["teacher"] == {"name": "edges", "residuals": 2, "predictions": 2, "pictures": 0}


def test_a_run_that_took_pictures_for_captioned_goes_on_so():
    lessons = Lessons(None, SimpleNamespace(digest="0"), Phases(captioned=False), 16)
    lessons.keep({"residuals": 2, "predictions": 0})
    assert (lessons.residuals, lessons.predictions) == (2, 0)
    lessons.keep({"residuals": 4, "predictions": 4})
    assert (lessons.residuals, lessons.predictions) == (4, 12)


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ("optional", {"residuals": 2, "predictions": 0, "pictures": 14}),
        ("none", {"residuals": 4, "predictions": 12, "pictures": 0}),
    ],
)
def test_more_steps_leave_the_phases_that_nothing_is_said_of(taught_values, controlnet, captions, expected):
    taught_values["teacher"] = {"controlnet": str(controlnet)}
    taught_values["data"]["captions"] = captions
    taught_values["loop"]["steps"] = 8
    run(taught_values)
    for steps in (12, 16):
        taught_values["loop"]["steps"] = steps
        path = run(taught_values)
    plans = [event for event in events(taught_values, "plan") if event["steps"] == 16]
    assert plans[-1]["first_step"] == 12
    assert plans[-1]["teacher"] == {"name": "edges", **expected}
    told = json.loads(load_tuner(path).metadata["scedit.teacher"])
    assert (told["residuals"], told["predictions"]) == (expected["residuals"], expected["predictions"])
    taught_values["teacher"]["residuals"] = 5
    with pytest.raises(ConfigError, match=r"found other values for teacher.residuals \(. before, 5 now\)"):
        run(taught_values)


def test_previews_show_the_teacher_once(taught_values):
    taught_values["previews"] = {"every": 3, "count": 1, "steps": 4}
    run(taught_values)
    pictures = Path(taught_values["output"]).with_suffix(".run") / "previews/pictures"
    names = ["hint-0.jpg", "step-000003-0.jpg", "step-000006-0.jpg", "teacher-0.jpg", "without-0.jpg"]
    assert sorted(p.name for p in pictures.glob("*.jpg")) == names
    grid = Image.open(pictures.parent / "grid.jpg")
    assert grid.height > 4 * 128  # hint, without, the ControlNet, two steps


def test_the_teachers_pictures_are_diffusers_own(school):
    base, teacher, _, batch = school
    scheduler, hint = preview_scheduler(base, ObjectiveConfig()), batch["hints"][:1]
    noise, text = starting_noise(64, 64, 5), base.encode_captions(["", "a red star"])
    made = sample(base, scheduler, text, noise, 4, 3.0, hint=hint, teacher=teacher)
    parts = {k: v for k, v in base.pipeline.components.items() if k != "image_encoder"} | {"scheduler": scheduler}
    pipeline = StableDiffusionControlNetPipeline(
        **parts, controlnet=teacher.network, requires_safety_checker=False, image_encoder=None
    )
    pipeline.set_progress_bar_config(disable=True)
    own = pipeline(
        "a red star", image=hint, latents=noise, num_inference_steps=4, guidance_scale=3.0, output_type="latent",
        height=64, width=64,
    ).images  # fmt: skip
    torch.testing.assert_close(made, own, rtol=1e-3, atol=1e-4)
    plain = sample(base, scheduler, text, noise, 4, 3.0)
    assert (made - plain).abs().mean() > 0.02


def test_only_a_control_has_a_teacher(values, controlnet):
    values["teacher"] = {"controlnet": str(controlnet)}
    with pytest.raises(Exception, match="expected no teacher for kind sc"):
        parse_config(values)


def test_a_teacher_adds_nothing_where_it_has_nothing(school):
    base, _, student, batch = school
    wanted = [None] * len(base.layout)
    wanted[0] = torch.ones_like(base.skips(*(batch[k] for k in ("noisy", "timesteps", "text", "sizes")))[0])
    errors = TrainingStep(base, student)(**batch, wanted=Added(wanted).skips)
    assert errors.shape == (2,)
    assert torch.isfinite(errors).all()
    wanted[0] = None
    with pytest.raises(SCEditError, match=r"adds to one of the tuner's blocks \[0, 1, .*found one that adds to others"):
        TrainingStep(base, student)(**batch, wanted=wanted)
