"""The widgets of Train SCEdit on Model as its tests set them, and pictures as latents."""

from __future__ import annotations

import torch

WIDGETS = {
    "folder": "",
    "name": "style",
    "kind": "style",
    "steps": 4,
    "batch": 2,
    "accumulate": 1,
    "learning_rate": 1e-3,
    "ratio": 1.0,
    "kernel": "1",
    "optimizer": "adamw",
    "precision": "auto",
    "checkpointing": False,
    "seed": 0,
    "resolution": 128,
    "caption": "",
    "hold_out": 0,
    "preview_every": 0,
    "start_from": "none",
    "resume": True,
}


def latents(count: int, side: int = 8, seed: int = 0) -> list[dict]:
    """LATENTs of one picture each, as core's dataset nodes give them."""
    draw = torch.Generator().manual_seed(seed)
    return [{"samples": torch.randn(1, 4, side, side, generator=draw)} for _ in range(count)]
