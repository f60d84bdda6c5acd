"""A training run in a process of its own that kills itself (SIGKILL) at a chosen point; for test_resume.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import torch

from scedit_core.fitting import loop as fitting
from training import loop
from training.bases.base_model import BaseModel
from training.config_file import parse_config
from training.seeing.previews import Previews


def run(values: dict, point: str | None = None) -> None:
    """Train as `values` say; die at `point` where one is named."""
    if point is not None:
        POINTS[point]()
    loop.train(parse_config(values))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_on_call(owner: object, name: str, call: int) -> None:
    """Die when `owner.name` is called for the `call`-th time."""
    original, count = getattr(owner, name), 0

    def counted(*args, **options):
        nonlocal count
        count += 1
        if count == call:
            _die()
        return original(*args, **options)

    setattr(owner, name, counted)


def _in_a_step() -> None:
    _die_on_call(torch.nn.utils, "clip_grad_norm_", 5)  # gradients are there, weights not yet changed


def _in_a_save() -> None:
    _die_on_call(torch, "save", 2)  # the tuner's file is written, the rest of the checkpoint not


def _in_a_preview() -> None:
    _die_on_call(Previews, "draw", 2)


def _in_caching() -> None:
    _die_on_call(BaseModel, "encode_moments", 2)


def _between_epochs() -> None:
    # 3 pictures an epoch, batch 1: with the fourth update, after which this is called, the second epoch has begun
    _die_on_call(fitting.Wishes, "share", 4)


POINTS: dict[str, Callable[[], None]] = {  # in the order in which a run of twelve steps comes to them
    "in caching": _in_caching,
    "between epochs": _between_epochs,
    "in a step": _in_a_step,
    "in a save": _in_a_save,
    "in a preview": _in_a_preview,
}
