"""Which examples a step sees: whole batches of one bucket, every example as often as its share says."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from .chance import generator_for


class Order:
    """A pure function of (seed, step, batch size).

    groups: for each bucket the indices of its examples; one that stands there twice is seen twice as often.

    Each bucket is a stream of its own that shows all of its examples in one random order after the other.  A step takes
    the next rows of the bucket that has been seen least for its share, so that no example is left out or preferred
    because its bucket is small.
    """

    def __init__(self, groups: Sequence[Sequence[int]], seed: int) -> None:
        self._groups = [torch.tensor(group) for group in groups]
        self._seed = seed
        total = sum(len(group) for group in groups)
        self._shares = [len(group) / total for group in groups]
        self._seen = [0] * len(groups)
        self._group_of, self._turn_of = array("H"), array("L")  # of each step so far
        self._orders: dict[int, tuple[int, Tensor]] = {}  # the last epoch's order of each group

    def rows(self, step: int, size: int) -> list[int]:
        """The `size` indices that the whole batch of this step shows."""
        while len(self._group_of) <= step:
            now = len(self._group_of) + 1
            group = max(range(len(self._groups)), key=lambda g: (now * self._shares[g] - self._seen[g], -g))
            self._group_of.append(group)
            self._turn_of.append(self._seen[group])
            self._seen[group] += 1
        group, turn = self._group_of[step], self._turn_of[step]
        count = len(self._groups[group])
        places = range(turn * size, (turn + 1) * size)
        return [int(self._groups[group][self._order(group, p // count)[p % count]]) for p in places]

    def _order(self, group: int, epoch: int) -> Tensor:
        known = self._orders.get(group)
        if known is None or known[0] != epoch:
            generator = generator_for(self._seed, epoch, f"order of bucket {group}")
            known = epoch, torch.randperm(len(self._groups[group]), generator=generator)
            self._orders[group] = known
        return known[1]
