"""What a sampling run keeps: the folded weights of its tuners, and what was made of its hints and masks, once.

There is one state for each device.  What is kept is bounded; the host is asked for room before it is made, and gets it
back when it unloads a tuner and when the run ends.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...scedit_core.editing import is_active
from ...scedit_core.folding import FoldedEdits, FoldedWeights
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
        self._states: dict[torch.device, _State] = {}
        self._lock = threading.Lock()

    def begin(self, percent_to_sigma: Callable[[float], float], tiled: bool = False) -> None:
        """Start of a run; an exception in the last one may have skipped its end."""
        self.end()
        self._percent_to_sigma, self.tiled = percent_to_sigma, tiled

    def end(self, *_: Any) -> None:
        """End of a run: forget what was made for it."""
        with self._lock:
            self._states, self._sigmas = {}, {}

    def drop(self) -> None:
        """Give all memory back in mid run; what is needed is made again."""
        with self._lock:
            self._states = {}

    def kept(self) -> int:
        """Bytes held on all devices."""
        return sum(state.kept() for state in list(self._states.values()))

    def folded(self, patches: Sequence[SkipPatch], picture: Picture, like: Tensor) -> list[FoldedEdits]:
        """All edits of a forward that are at work at its noise level, folded for skips like `like`.

        The noise level is read off the device once, and only where a range asks for it.
        """
        options = picture.options
        ranges = [self.range_of(patch.percents) for patch in patches]
        sigma = None
        if "sigmas" in options and any(each != (math.inf, -math.inf) for each in ranges):
            sigma = float(options["sigmas"][0])
        active = [
            patch
            for patch, each in zip(patches, ranges, strict=True)
            if patch.strength != 0 and (sigma is None or is_active(sigma, *each))
        ]
        groups: dict[tuple | None, list[SkipPatch]] = {}
        for patch in active:
            rows = picture.rows_of(patch.call)
            if rows is None or rows:
                groups.setdefault(rows, []).append(patch)
        if not groups:
            return []
        state = self._state(like.device)
        return [
            state.folded(_sorted(groups[rows]), rows, picture, like) for rows in sorted(groups, key=lambda r: r or ())
        ]

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

    def _state(self, device: torch.device) -> _State:
        with self._lock:
            return self._states.setdefault(device, _State(self))


class _Entry:
    """Edits folded for one batch, and the bytes that they hold beside the weights."""

    def __init__(self, edits: FoldedEdits, nbytes: int, made_of: list[SkipPatch]) -> None:
        self.edits, self.nbytes = edits, nbytes
        self.made_of = made_of  # what the key has the identities of, which thus stay their own


class _State:
    """What a run keeps on one device."""

    def __init__(self, run: Run) -> None:
        self._run = weakref.ref(run)
        self._entries: dict[tuple, _Entry] = {}
        self._weights: weakref.WeakValueDictionary[tuple, FoldedWeights] = weakref.WeakValueDictionary()
        self._asked: dict[tuple, int] = {}  # when each key was asked for last, kept or not
        self._clock = 0
        self._lock = threading.RLock()

    def kept(self) -> int:
        weights = {id(e.edits.weights): e.edits.weights.nbytes for e in list(self._entries.values())}
        return sum(weights.values()) + sum(e.edits.nbytes for e in list(self._entries.values()))

    def folded(self, patches: list[SkipPatch], rows: tuple | None, picture: Picture, like: Tensor) -> FoldedEdits:
        """The edits of `patches` on `rows` of the batch: those that are kept, or new ones."""
        place = (like.dtype, torch.is_inference_mode_enabled())
        made_of = tuple((id(patch.tuner), patch.weights()) for patch in patches)
        key = (rows, picture.size, made_of, place, *(patch.sources(picture) for patch in patches))
        with self._lock:
            self._clock += 1
            entry = self._entries.get(key)
            if entry is None:
                entry = self._made(key, (made_of, place), patches, rows, picture, like)
            self._asked[key] = self._clock
            return entry.edits

    def _made(self, key, weights_key, patches, rows, picture: Picture, like: Tensor) -> _Entry:
        edits = [patch.edit(picture, like) for patch in patches]
        weights = self._weights.get(weights_key)
        new = weights is None
        if new:
            weights = self._weights[weights_key] = FoldedWeights(edits, like.device, like.dtype)
        for edit in edits:
            edit.rows = None if rows is None else torch.tensor(rows, device=like.device)
        folded = FoldedEdits(edits, weights)
        entry = _Entry(folded, folded.nbytes_for(picture.size), patches)
        self._forget_the_unused()
        held = sum(each.nbytes for each in self._entries.values())
        if not self._entries or held + weights.nbytes + entry.nbytes <= BUDGET:
            self._entries[key] = entry
        for patch in patches:
            patch.tuner.runs.add(self._run())
        make_room(entry.nbytes + weights.nbytes * new, like.device)
        return entry

    def _forget_the_unused(self) -> None:
        """Let go what others were asked for twice each without it.

        Windows and areas that go round in a circle are never forgotten so, and never push each other out: those that
        found room stay, and the rest is made at each use.
        """
        for key in list(self._asked):
            since = self._clock - self._asked[key]
            others = sum(last > self._asked[key] for last in self._asked.values())
            if since > 2 * others + 2:
                del self._asked[key]
                self._entries.pop(key, None)


def _sorted(patches: list[SkipPatch]) -> list[SkipPatch]:
    """In an order that the nodes' order does not change, so that not even rounding depends on it."""

    def key(patch: SkipPatch) -> tuple:
        return patch.tuner.name, patch.strength, patch.percents, patch.weights()

    ordered = sorted(patches, key=key)
    if any(key(a) == key(b) for a, b in itertools.pairwise(ordered)):
        ordered.sort(key=lambda patch: (key(patch), patch.digest()))
    return ordered
