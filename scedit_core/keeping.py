"""Folded edits kept between the steps of a run, within a budget of bytes; what finds no room is made at each use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

from .editing import Edit
from .folding import FoldedEdits, FoldedWeights


class KeptEdits:
    """Folded edits on one device, by what they are made of; edits of the same tuners share their weights."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[FoldedEdits, int, Any]] = {}  # with the bytes beside the weights
        self._weights: weakref.WeakValueDictionary[Hashable, FoldedWeights] = weakref.WeakValueDictionary()
        self._asked: dict[Hashable, int] = {}  # when each key was asked for last, kept or not
        self._clock = 0
        self._lock = threading.RLock()

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        kept = [edits for edits, *_ in list(self._entries.values())]
        return sum({id(e.weights): e.weights.nbytes for e in kept}.values()) + sum(e.nbytes for e in kept)

    def folded(
        self,
        key: Hashable,
        weights_key: Hashable,
        edits: Callable[[], list[Edit]],
        size: tuple[int, int],
        like: Tensor,
        budget: int,
        room: Callable[[int], None],
        made_of: Any = None,
    ) -> FoldedEdits:
        """The folded edits of that key: those that are kept, or new ones for latents of `size`, on skips like `like`.

        key, weights_key: what tells the edits, and the weights of their tuners, from others.
        edits:   makes them, all of one `rows`.
        budget:  bytes for weights and all that is kept beside them; what one forward needs is kept in any case.
        room:    is asked for the bytes of what is new, before they are taken.
        made_of: what the keys have the identities of, kept alive so that these stay its own.
        """
        with self._lock:
            self._clock += 1
            if key in self._entries:
                found = self._entries[key][0]
            else:
                found = self._made(key, weights_key, edits(), size, like, budget, room, made_of)
            self._asked[key] = self._clock
            return found

    def _made(self, key, weights_key, edits: list[Edit], size, like: Tensor, budget: int, room, made_of) -> FoldedEdits:
        weights = self._weights.get(weights_key)
        new = 0
        if weights is None:
            weights = self._weights[weights_key] = FoldedWeights(edits, like.device, like.dtype)
            new = weights.nbytes
        folded = FoldedEdits(edits, weights)
        beside = folded.nbytes_for(size)
        self._forget_the_unused()
        if not self._entries or sum(each for _, each, _ in self._entries.values()) + weights.nbytes + beside <= budget:
            self._entries[key] = folded, beside, made_of
        room(beside + new)
        return folded

    def _forget_the_unused(self) -> None:
        """Let go what others were asked for twice each without it.

        Windows and areas that go round in a circle are never forgotten so, and never push each other out: those that
        found room stay, and the rest is made at each use.
        """
        for key, last in list(self._asked.items()):
            others = sum(each > last for each in self._asked.values())
            if self._clock - last > 2 * others + 2:
                del self._asked[key]
                self._entries.pop(key, None)
