"""What a training in ComfyUI has left: the events of its log, and how far its tuner lies from another."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from small_model import relative


def events(folder: Path, kind: str, name: str = "style") -> list[dict]:
    """Those of a kind; `folder` holds ComfyUI's output."""
    lines = (folder / "output" / "scedit" / name / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def distance(one, other) -> float:
    """Relative L2 between the weights of two tuners."""
    found, expected = (torch.cat([p.flatten().double() for p in t.state_dict().values()]) for t in (one, other))
    return relative(found, expected)
