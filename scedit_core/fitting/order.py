"""Which examples a step sees: whole batches of one bucket, every example as often as its share says."""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Sequence

import torch

from .chance import generator_for

_KEPT = 4  # batches of a stream, for whoever reads ahead and then looks back


class Order:
    """A pure function of (seed, step, batch size).

    groups: for each bucket the indices of its examples; one that stands there twice is seen twice as often.

    Each bucket is a stream of its own that shows all of its examples in one random order after the other.  A step takes
    the next rows of the bucket that has been seen least for its share, so that no example is left out or preferred
    because its bucket is small.  No example is twice in a batch, but where its share asks for more than one in each.
    """

    def __init__(self, groups: Sequence[Sequence[int]], seed: int) -> None:
        self._groups, self._seed = groups, seed
        total = sum(len(group) for group in groups)
        self._shares = [len(group) / total for group in groups]
        self._seen = [0] * len(groups)
        self._group_of, self._turn_of = array("H"), array("L")  # of each step so far
        self._streams: dict[tuple[int, int], _Stream] = {}

    def rows(self, step: int, size: int) -> list[int]:
        """The `size` indices that the whole batch of this step shows."""
        while len(self._group_of) <= step:
            now = len(self._group_of) + 1
            group = max(range(len(self._groups)), key=lambda g: (now * self._shares[g] - self._seen[g], -g))
            self._group_of.append(group)
            self._turn_of.append(self._seen[group])
            self._seen[group] += 1
        group, turn = self._group_of[step], self._turn_of[step]
        stream = self._streams.get((group, size))
        if stream is None or not stream.reaches(turn):
            stream = self._streams[group, size] = _Stream(self._groups[group], self._seed, group, size)
        return stream.batch(turn)


class _Stream:
    """The batches of one bucket, one after the other.  What a batch has already goes into the next."""

    def __init__(self, group: Sequence[int], seed: int, number: int, size: int) -> None:
        self._group, self._seed, self._number, self._size = group, seed, number, size
        often = max(Counter(group).values())
        self._most = math.ceil(size * often / len(group))  # times that a batch shows an example at most, for its share
        self._waiting: deque[int] = deque()
        self._epoch = self._turn = 0
        self._made: deque[list[int]] = deque(maxlen=_KEPT)

    def reaches(self, turn: int) -> bool:
        """Whether `batch` can give that of `turn`, or whether it was too long ago."""
        return turn >= self._turn - len(self._made)

    def batch(self, turn: int) -> list[int]:
        """The batch that is the `turn`-th of this bucket."""
        while self._turn <= turn:
            self._made.append(self._next())
            self._turn += 1
        return self._made[turn - self._turn]

    def _next(self) -> list[int]:
        batch: list[int] = []
        shown: Counter[int] = Counter()
        passed: list[int] = []
        while len(batch) < self._size:
            if not self._waiting:
                self._waiting.extend(self._order())
            i = self._waiting.popleft()
            shown[i] += 1
            (batch if shown[i] <= self._most else passed).append(i)
        self._waiting.extendleft(reversed(passed))
        return batch

    def _order(self) -> list[int]:
        generator = generator_for(self._seed, self._epoch, f"order of bucket {self._number}")
        self._epoch += 1
        return [self._group[i] for i in torch.randperm(len(self._group), generator=generator).tolist()]
