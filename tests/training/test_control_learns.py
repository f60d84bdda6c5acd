"""A control trained on the embedded base learns to use its hint: the gap that validation measures grows."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from training.config_file import parse_config
from training.demo.pictures import write_pictures
from training.loop import train

DEMO = Path(__file__).resolve().parents[2] / "demo"
STEPS = 120


def test_the_gap_with_and_without_the_hint_grows(tmp_path):
    write_pictures(tmp_path / "set", 96, seed=31, style="plain")
    write_pictures(tmp_path / "held", 8, seed=32, style="plain")
    values = {
        "base": str(DEMO),
        "output": str(tmp_path / "edges.safetensors"),
        "tuner": {"kind": "csc", "stem_width": 64},
        "data": {"folder": str(tmp_path / "set"), "resolution": 128, "condition": {"type": "canny"}},
        "loop": {"steps": STEPS, "batch": 8, "learning_rate": 3e-3, "warmup": 10, "schedule": "constant"},
        "validation": {"every": STEPS // 3, "images": 8, "timesteps": 3, "folder": str(tmp_path / "held")},
        "previews": {"every": 0},
        "tensorboard": False,
    }
    assert train(parse_config(values), Console(quiet=True)) is not None
    events = map(json.loads, (tmp_path / "edges.run" / "events.jsonl").read_text("utf-8").splitlines())
    measured = [e for e in events if e["event"] == "validation"]
    assert [e["step"] for e in measured] == [40, 80, 120]
    gaps = [e["loss_no_hint"] / e["loss_with"] - 1 for e in measured]
    assert gaps[-1] > gaps[0], gaps
    assert gaps[-1] > 0.02, gaps
    assert measured[-1]["loss_with"] < measured[-1]["loss_without"], measured[-1]
