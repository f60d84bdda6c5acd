"""A control trained on the embedded base learns to use its hint: the gap that validation measures grows."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from scedit_core import load_tuner, save_tuner
from training.config_file import parse_config
from training.demo.pictures import write_pictures
from training.loop import train

DEMO = Path(__file__).resolve().parents[2] / "demo"
FAINT = 0.6


def test_the_gap_with_and_without_the_hint_grows(tmp_path):
    """From nothing it takes thousands of pictures; this run begins with the demo's control, its hints made faint."""
    write_pictures(tmp_path / "set", 64, seed=31, style="plain")
    write_pictures(tmp_path / "held", 6, seed=32, style="plain")
    faint = load_tuner(DEMO / "canny.safetensors").float()
    for conv in faint.hint.dense:
        conv.weight.data = conv.weight * FAINT
    save_tuner(faint, tmp_path / "faint.safetensors")
    values = {
        "base": str(DEMO),
        "output": str(tmp_path / "edges.safetensors"),
        "tuner": {"kind": "csc", "start_from": str(tmp_path / "faint.safetensors")},
        "data": {"folder": str(tmp_path / "set"), "resolution": 128, "condition": {"type": "canny"}},
        "loop": {"steps": 40, "batch": 8, "learning_rate": 1e-3, "warmup": 5, "schedule": "constant"},
        "validation": {"every": 10, "images": 6, "timesteps": 3, "folder": str(tmp_path / "held")},
        "previews": {"every": 0},
        "tensorboard": False,
    }
    assert train(parse_config(values), Console(quiet=True)) is not None
    events = map(json.loads, (tmp_path / "edges.run" / "events.jsonl").read_text("utf-8").splitlines())
    measured = [e for e in events if e["event"] == "validation"]
    assert [e["step"] for e in measured] == [10, 20, 30, 40]
    gaps = [e["gap"] / e["loss_with"] for e in measured]
    assert gaps[-1] > 1.1 * gaps[0] > 0, gaps
    assert measured[-1]["loss_with"] < 0.97 * measured[-1]["loss_without"], measured[-1]
