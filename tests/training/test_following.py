"""A control beside the ControlNet that teaches it: how near it comes, and a teacher that does not follow the hints."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image
from rich.console import Console

from scedit_core import CSCTuner, load_tuner
from scedit_core.fitting.base import Added
from scedit_core.fitting.following import edge_f1, edges_followed, shows_edges, unlike_hints
from scedit_core.fitting.validation import Validation
from training.bases.base_model import BaseModel
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.opening import open_data
from training.demo.pictures import write_pictures
from training.loop import train

DEMO = Path(__file__).parents[2] / "demo"


@dataclass
class TunerAsTeacher:
    """The trained control of the embedded base, in a ControlNet's place: it adds to the same skips."""

    base: BaseModel
    tuner: CSCTuner
    name: str = "canny"
    digest: str = ""
    parameters: int = 1

    def residuals(self, noisy, timesteps, hints, text, sizes) -> Added:
        features = self.tuner.encode_hint(hints)
        skips = self.base.skips(noisy, timesteps, text, sizes)
        return Added([self.tuner.residual(b, skip, features[b]) for b, skip in enumerate(skips)])


@pytest.fixture(scope="module")
def school(tmp_path_factory) -> tuple[BaseModel, CSCTuner, dict]:
    folder = tmp_path_factory.mktemp("scenes")
    write_pictures(folder / "set", 6, seed=41, style="plain")
    values = {
        "base": str(DEMO),
        "output": str(folder / "out.safetensors"),
        "tuner": {"kind": "csc"},
        "data": {"folder": str(folder / "set"), "resolution": 128, "condition": {"type": "canny"}},
        "validation": {"images": 6},
    }
    return load_base(DEMO), load_tuner(DEMO / "canny.safetensors"), values


def validation(school, **data: Any) -> Validation:
    base, tuner, values = school
    config = parse_config({**values, "data": {**values["data"], **data}})
    return Validation(config, base, open_data(base, config), TunerAsTeacher(base, tuner))


def test_a_tuner_that_is_its_teacher_agrees_with_it_and_one_that_adds_nothing_does_not(school):
    base, tuner, _ = school
    made = validation(school)
    same = made.measure(tuner)
    assert same["agreement"] == pytest.approx(1, abs=1e-5)
    assert same["loss_teacher"] == pytest.approx(same["loss_with"], rel=1e-4)
    assert same["loss_teacher"] < same["loss_without"]
    assert [row["loss_teacher"] for row in same["by_timestep"]] == pytest.approx(
        [row["loss_with"] for row in same["by_timestep"]], rel=1e-4
    )
    fresh = made.measure(CSCTuner(base.layout))
    assert fresh["agreement"] == pytest.approx(0, abs=1e-5)
    assert fresh["loss_teacher"] == same["loss_teacher"]


def test_a_teacher_that_follows_its_hints_is_left_alone_and_others_are_told(school, tmp_path):
    assert validation(school).unlike_hints() is None
    draw = np.random.default_rng(0)
    for i in range(6):  # hints of a depth that has nothing to do with the pictures
        ramp = np.broadcast_to(
            np.linspace(*draw.integers(0, 256, 2), 128).astype(np.uint8)[None, :, None], (128, 128, 3)
        )
        Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / f"{i:05d}.png")
    other = validation(school, hints=str(tmp_path), condition={"type": "custom", "name": "depth"})
    sentence = other.unlike_hints()
    assert sentence is not None
    assert sentence.startswith("teacher: expected a ControlNet that follows these hints, found that another picture's")
    assert "\n" not in sentence


def test_what_is_said_of_numbers():
    followed = {"edge_f1_teacher": 0.8, "edge_f1_without": 0.4}
    assert unlike_hints(followed) is None
    assert "agree with them by 0.41 (F1)" in unlike_hints(followed | {"edge_f1_teacher": 0.41})
    gap = {"loss_without": 0.2, "teacher_gap": 0.01, "teacher_gap_error": 0.004}
    assert unlike_hints(gap) is None
    assert "a gap of 2.50 % of the loss with a standard error of 2.50 %" in unlike_hints(
        {"loss_without": 0.2, "teacher_gap": 0.005, "teacher_gap_error": 0.005}
    )
    assert unlike_hints({}) is None


def test_edges_are_found_again_whichever_way_round_the_lines_are(school):
    from training.demo.measure import drawn, edges_of, held_out_scenes

    pictures = drawn(held_out_scenes(3))
    hints = edges_of(pictures)
    for lines in (hints, 1 - hints):
        told = edges_followed({"with": list(pictures), "without": list(pictures.flip(0))}, list(lines))
        assert told["edge_f1_with"] == pytest.approx(1, abs=1e-5)
        assert told["edge_f1_without"] == pytest.approx(edge_f1(pictures.flip(0), hints), rel=1e-5)
        assert told["edge_f1_without"] < 0.9
    config = parse_config(school[2])
    assert shows_edges(config.data.condition)
    assert not shows_edges(None)


def test_a_run_tells_how_near_it_comes_and_of_a_teacher_that_sees_no_hint(control_values, base_folder, tmp_path):
    network = ControlNetModel.from_unet(load_base(base_folder).unet)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.startswith(("controlnet_down", "controlnet_mid")):
                p.copy_(torch.randn(p.shape, generator=draw) * 0.1)
    network.save_pretrained(tmp_path / "blind")  # what comes of the hint stays zero
    control_values["teacher"] = {"controlnet": str(tmp_path / "blind"), "residuals": 20, "predictions": 0}
    control_values["loop"] |= {"steps": 20, "learning_rate": 1e-2, "batch": 4, "schedule": "constant"}
    control_values["previews"] = {"every": 10, "count": 2, "steps": 3}
    control_values["validation"] = {"every": 10, "images": 3, "timesteps": 2}
    path = train(parse_config(control_values), Console(quiet=True))
    folder = path.with_suffix(".run")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    first, last = (event for event in events if event["event"] == "validation")
    assert 0 < first["agreement"] < last["agreement"]
    assert first["loss_teacher"] == last["loss_teacher"]
    previews = [event for event in events if event["event"] == "preview"]
    for preview in previews:
        assert {"edge_f1_with", "edge_f1_without", "edge_f1_teacher"} < preview.keys()
        assert min(preview[f"seconds_{name}"] for name in ("with", "without", "teacher")) > 0
    assert previews[0]["edge_f1_teacher"] == previews[1]["edge_f1_teacher"]
    notes = [event["message"] for event in events if event["event"] == "note"]
    assert sum("found that another picture's hint serves it as well (a gap of 0.00 %" in note for note in notes) == 1
    (plan,) = (event for event in events if event["event"] == "plan")
    assert plan["teacher_parameters"] == sum(p.numel() for p in network.parameters())
    page = (folder / "report.html").read_text("utf-8")
    for said in (
        "Share of what the ControlNet adds to the skips",
        "Edges of the previews against their hints, F1",
        "parameters of the ControlNet",
        "added by the ControlNet to a preview",
        html.escape("another picture's hint serves it as well"),
        f"of what it adds to the skips the control adds {last['agreement'] * 100:.0f} %",
    ):
        assert said in page
