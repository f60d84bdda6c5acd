"""What a sampling run keeps: the folded weights of its tuners, and what was made of its hints and masks, once.

There is one state for each device.  What is kept is bounded; the host is asked for room before it is made, and gets it
back when it unloads a tuner and when the run ends.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ...scedit_core.editing import Edit, is_active
from ...scedit_core.folding import FoldedEdits
from ...scedit_core.keeping import KeptEdits
from .managed import make_room

if TYPE_CHECKING:
    from .patch import SkipPatch

# Bytes on each device for weights and all that is made of hints and masks.  What one forward needs is kept in any case.
BUDGET = 7 * 2**30 // 10


@dataclass(frozen=True)
class Picture:
    """The batch of one forward.

    size:     height and width of the latents.
    pictures: how many different ones are in the batch.
    calls:    which prompt each of the equal parts of a tile's rows belongs to, 0 positive and 1 negative.
    tiles:    how many tiles stand one after another in the batch, each with all calls.
    options:  the forward's transformer_options, which name windows and noise levels.
    """

    size: tuple[int, int]
    pictures: int
    calls: tuple[int, ...]
    tiles: int
    options: dict[str, Any]

    @classmethod
    def of(cls, shape: torch.Size, options: dict[str, Any], tiled: bool) -> Picture:
        """That of latents of `shape`; `tiled` where Tiled Diffusion cuts pictures up inside a forward.

        That pack tells patches nothing of it; the host's noise levels are still one for each picture.
        """
        rows, calls = shape[0], tuple(options.get("cond_or_uncond") or (0,))
        if rows % len(calls):  # a pack that puts rows of its own into the batch
            calls = calls[:1]
        rows //= len(calls)
        pictures = options["sigmas"].numel() if tiled and "sigmas" in options else rows
        tiles = 1 if rows % pictures else rows // pictures
        return cls(tuple(shape[-2:]), rows // tiles, calls, tiles, options)

    def rows_of(self, call: int | None) -> tuple[int, ...] | None:
        """The rows of the batch that belong to a call; None for all, () for none."""
        chosen = [i for i, each in enumerate(self.calls) if call in (None, each)]
        if len(chosen) == len(self.calls):
            return None
        block = len(self.calls) * self.pictures
        return tuple(
            tile * block + i * self.pictures + p
            for tile in range(self.tiles) for i in chosen for p in range(self.pictures)
        )  # fmt: skip


class Run:
    """One run of a MODEL, or of a control: what it knows of the schedule, and a state for each device."""

    def __init__(self) -> None:
        self.tiled = False
        self._percent_to_sigma: Callable[[float], float] | None = None
        self._sigmas: dict[tuple[float, float], tuple[float, float]] = {}
        self._states: dict[torch.device, KeptEdits] = {}
        self._lock = threading.Lock()

    def begin(self, percent_to_sigma: Callable[[float], float], tiled: bool = False) -> None:
        """Start of a run; an exception in the last one may have skipped its end."""
        self.end()
        self._percent_to_sigma, self.tiled = percent_to_sigma, tiled

    def end_with(self, patcher: Any) -> None:
        """End also when the host cleans up after its MODEL, which it does after a broken run too, but not for controls.

        What a run holds would keep its tuner alive until the host unloads that, and let it die while the host does so.
        """
        key = f"scedit {id(self)}"

        def end(patcher: Any) -> None:
            patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, key)
            self.end()

        patcher.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, key)
        patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, key, end)

    def end(self, *_: Any) -> None:
        """End of a run: forget what was made for it."""
        with self._lock:
            self._states, self._sigmas = {}, {}

    def drop(self) -> None:
        """Give all memory back in mid run; what is needed is made again."""
        with self._lock:
            self._states = {}

    def folded(self, patches: Sequence[SkipPatch], picture: Picture, like: Tensor) -> list[FoldedEdits]:
        """All edits of a forward that are at work at its noise level, folded for skips like `like`.

        The noise level is read off the device once, and only where a range asks for it.
        """
        options = picture.options
        ranges = [self.range_of(patch.percents) for patch in patches]
        sigma = None
        if "sigmas" in options and any(each != (math.inf, -math.inf) for each in ranges):
            sigma = float(options["sigmas"][0])
        groups: dict[tuple | None, list[SkipPatch]] = {}
        for patch, span in zip(patches, ranges, strict=True):
            rows = picture.rows_of(patch.call)
            if patch.strength != 0 and rows != () and (sigma is None or is_active(sigma, *span)):
                groups.setdefault(rows, []).append(patch)
        ordered = sorted(groups.items(), key=lambda group: group[0] or ())
        return [self._folded(_sorted(patches), rows, picture, like) for rows, patches in ordered]

    def _folded(self, patches: list[SkipPatch], rows: tuple | None, picture: Picture, like: Tensor) -> FoldedEdits:
        """Patches of the same rows as one, from the state of the device of `like`."""
        with self._lock:
            state = self._states.setdefault(like.device, KeptEdits())

        def edits() -> list[Edit]:
            places = None if rows is None else torch.tensor(rows, device=like.device)
            for patch in patches:
                patch.tuner.runs.add(self)
            return [patch.edit(picture, places, like) for patch in patches]

        tuners = tuple((id(patch.tuner), patch.weights()) for patch in patches)
        weights = (tuners, like.dtype, torch.is_inference_mode_enabled())
        key = (rows, picture.size, weights, *(patch.sources(picture) for patch in patches))
        return state.folded(
            key, weights, edits, picture.size, like, BUDGET, lambda nbytes: make_room(nbytes, like.device), patches
        )

    def range_of(self, percents: tuple[float, float]) -> tuple[float, float]:
        """(start, end) as noise levels for fractions of the schedule; 0 and 1 leave that end open."""
        if percents not in self._sigmas:
            start, end = percents
            to_sigma = self._percent_to_sigma
            first = math.inf if start <= 0 or to_sigma is None else float(to_sigma(start))
            last = -math.inf if end >= 1 or to_sigma is None else float(to_sigma(end))
            self._sigmas[percents] = (first, last)
        return self._sigmas[percents]

    def __deepcopy__(self, memo: dict) -> Run:
        return Run()  # hosts copy what holds this; nothing that was made is copied


def _sorted(patches: list[SkipPatch]) -> list[SkipPatch]:
    """In an order that the nodes' order does not change, so that not even rounding depends on it."""

    def key(patch: SkipPatch) -> tuple:
        return patch.tuner.name, patch.strength, patch.percents, patch.weights()

    ordered = sorted(patches, key=key)
    if any(key(a) == key(b) for a, b in itertools.pairwise(ordered)):
        ordered.sort(key=lambda patch: (key(patch), patch.shown()))
    return ordered
