"""Hints made on the way from the pictures, as `data.condition` says."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from scedit_core.conditions.annotators import default_folder, installed_weights
from scedit_core.conditions.fitting import fitting_of
from scedit_core.conditions.pictures import eight_bits
from scedit_core.conditions.random_masks import random_completion
from scedit_core.conditions.trained import HintMaker, hint_maker, options_of

from ..config_data import Condition, DataConfig

_END = 1 << 20  # bytes that are read at each end of a weight file to tell it from others


class Hints:
    """Makes hints [3,H,W] from pictures [3,H,W], both in 0..1.  Detectors are loaded when the first one is made.

    per_step: whether what is cached is the picture, of which each step hides another part (completion).
    fitting:  how ready ones come to the size of the picture.

    `make` and `mark` raise ConditionError where a detector is missing.
    """

    def __init__(self, config: DataConfig, device: torch.device | str = "cpu") -> None:
        self._condition, self._device = config.condition, device
        self._roots = config.annotators or [default_folder()]
        self._maker: HintMaker | None = None
        self.per_step = config.condition.type == "completion"
        self.fitting = fitting_of(config.condition.values())

    @cached_property
    def mark(self) -> list:
        """Changes with whatever the hint of a given picture depends on."""
        return _mark(self._condition, self._roots)

    def make(self, picture: Tensor) -> Tensor:
        """What is cached for a picture [3,H,W]; float [3,H,W] in whole 256ths on the CPU."""
        if self.per_step:
            return picture
        if self._maker is None:
            self._maker = hint_maker(
                _options(self._condition), _detectors(self._condition), self._device, None, self._roots
            )
        return whole_256ths(self._maker(picture.permute(1, 2, 0)[None])[0].permute(2, 0, 1).cpu())

    def for_step(self, cached: Tensor, generator: torch.Generator) -> Tensor:
        """The hint [3,H,W] of one row of one step from what is cached."""
        if not self.per_step:
            return cached
        return random_completion(cached.permute(1, 2, 0)[None], generator=generator)[0].permute(2, 0, 1)

    def release(self) -> None:
        """Give back the memory of detectors."""
        self._maker = None


def whole_256ths(hint: Tensor) -> Tensor:
    """Floats as 8 bits hold them, which is what lies in caches and what the nodes make of any hint."""
    return eight_bits(hint).float() / 255


def _options(condition: Condition) -> dict:
    return condition.model_dump(exclude={"detector", "persons"})


def _detectors(condition: Condition) -> dict[str, Path | None]:
    given = {condition.type: getattr(condition, "detector", None), "people": getattr(condition, "persons", None)}
    return {what: path for what, path in given.items() if path is not None}


def _mark(condition: Condition, roots: list[Path]) -> list:
    """The condition's options, and what tells its detectors from others."""
    if condition.type == "custom":
        return ["custom"]
    options, given = options_of(_options(condition)), _detectors(condition)
    wanted = {condition.type: "hed" if condition.type == "soft_edge" else getattr(options, "detector", None)}
    wanted["people"] = getattr(options, "person_detector", None)
    files = []
    for what, name in wanted.items():
        if what in given:
            files.append(_weights_mark(given[what]))
        elif name is not None:
            files.append(_weights_mark(installed_weights(name, roots)))
    return [_options(condition), files]


def _weights_mark(path: Path) -> list:
    """Name, size and a hash of both ends of a weight file, or of those in a folder."""
    found = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix in (".safetensors", ".bin", ".pth", ".json") and file.is_file():
            size = file.stat().st_size
            with open(file, "rb") as opened:
                ends = opened.read(_END)
                opened.seek(max(0, size - _END), os.SEEK_SET)
                ends += opened.read(_END)
            found.append([file.name, size, hashlib.blake2b(ends, digest_size=8).hexdigest()])
    return found
