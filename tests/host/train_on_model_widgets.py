"""The widgets of Train SCEdit on Model, as its tests set them."""

from __future__ import annotations

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
