"""What a user is told before the first step: the same list by `train`, by `check` and in the events."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from scedit_core.fitting.event_log import read_events
from scedit_core.fitting.rates import default_warmup, rate_remarks
from scedit_core.fitting.remarks import Remarks
from training.check import run_check
from training.config_file import parse_config
from training.loop import train


def test_remarks_are_counted_by_what_they_say():
    remarks = Remarks()
    for i in range(5):
        remarks.add("left out", "convert them", name=f"{i}.heic", sentence=f"/set/{i}.heic: unknown")
    remarks.add("left out", "convert them", name="0.heic", sentence="/set/0.heic: unknown")
    remarks.add("loop.warmup is 50", "set it to 2")
    remarks.add("turned", name="a.jpg")
    more = Remarks()
    more.add("left out", "convert them", name="0.heic", sentence="/other/0.heic: unknown")
    remarks.take(more)
    assert [str(remark) for remark in remarks] == [
        "left out: 6 (0.heic, 1.heic, 2.heic, ...); convert them",
        "loop.warmup is 50; set it to 2",
        "turned: 1 (a.jpg)",
    ]
    assert next(iter(remarks)).values()["count"] == 6


@pytest.fixture
def remarkable(values, pictures_folder, tmp_path) -> dict:
    """A run of which there is something to say of pictures, captions, validation and settings."""
    folder = tmp_path / "set"
    shutil.copytree(pictures_folder, folder)
    (folder / "broken.png").write_bytes((folder / "00000.png").read_bytes()[:300])
    (folder / "broken.txt").write_text("a star")
    (folder / "00001.txt").write_text("a red star " * 60)
    held = tmp_path / "held"
    shutil.copytree(pictures_folder, held)
    for i in (1, 2, 3, 4):
        (folder / f"0000{i}.png").rename(folder / f"0000{i}.tmp")
        shutil.copy(held / f"0000{i - 1}.png", folder / f"0000{i}.png")
    values["data"]["folder"] = str(folder)
    values["loop"] |= {"warmup": 50, "learning_rate": 0.5}
    values |= {"previews": {"every": 0}, "tensorboard": False}
    values["validation"] = {"folder": str(held), "images": 2, "timesteps": 1}
    return values


def test_train_check_and_events_say_the_same(remarkable):
    config = parse_config(remarkable)
    printed = {}
    for name, command in (("check", run_check), ("train", train)):
        out = io.StringIO()
        command(config, Console(file=out, width=80))
        printed[name] = [line for line in out.getvalue().splitlines() if line.startswith("- ")]
    events = read_events(config.run_folder / "events.jsonl")
    (told,) = (e["remarks"] for e in events if e["event"] == "remarks")
    assert printed["check"] == printed["train"] == [f"- {each['text']}" for each in told]
    assert [(each["what"].split(" ")[0], each["count"]) for each in told if each["advice"]] == [
        ("files", 1),
        ("pictures", 4),
        ("captions", 1),
        ("loop.warmup", None),
        ("loop.learning_rate", None),
    ]
    kinds = [e["event"] for e in events]
    assert kinds.index("remarks") < kinds.index("step")
    assert "loop.warmup is 50 in a run of 2 steps" in (config.run_folder / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (10, 1), (100, 10), (499, 49), (500, 50), (20000, 50)])
def test_warmup_fits_into_the_run(values, steps, warmup):
    values["loop"] = {"steps": steps}
    loop = parse_config(values).loop
    assert loop.warmup == default_warmup(steps) == warmup
    assert not len(rate_remarks(loop))


@pytest.mark.parametrize(
    ("given", "rate", "said"),
    [
        ({}, 1e-4, None),
        ({"optimizer": "prodigy"}, 1.0, None),
        ({"optimizer": "prodigy", "learning_rate": 1e-4}, 1e-4, "too little to learn anything with prodigy"),
        ({"learning_rate": 1.0}, 1.0, "too much"),
        ({"optimizer": "adamw8bit", "learning_rate": 1e-4}, 1e-4, None),
    ],
)
def test_rates_that_an_optimizer_cannot_use_are_said(values, given, rate, said):
    values["loop"] = given
    loop = parse_config(values).loop
    assert loop.learning_rate == rate
    told = [str(remark) for remark in rate_remarks(loop)]
    assert len(told) == (said is not None)
    assert said is None or said in told[0]
    assert said is None or "set it to" in told[0]


def test_the_whole_configuration_of_a_run_can_be_run_again(values):
    """config.yaml spells out warmup and rate, and means the same run."""
    config = parse_config({**values, "loop": {"steps": 40, "optimizer": "prodigy"}})
    assert parse_config(config.model_dump(mode="json")) == config
    assert Path(config.output).suffix == ".safetensors"
