"""Block numbers from diffusers' `up_blocks.{u}`, each of which takes several skips."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from ..errors import LayoutError
from ..layout import SkipLayout


def skips_per_block(tuned: Mapping[tuple[int, int], int]) -> int:
    """How many skips an up block takes, from the channels of those tuned, {(u, j): channels}.

    Files leave out untouched skips, so a number is taken with which the channels are those of a U-Net: 3 (all released
    U-Nets) before others.  Where there is none, the layout says later what is wrong.
    """
    smallest = max(j for _, j in tuned) + 1
    for count in sorted(range(smallest, max(smallest, 6) + 1), key=lambda n: (n != 3, n)):
        try:
            SkipLayout.from_tuned({u * count + j: c for (u, j), c in tuned.items()}, "sd1-or-sd2")
        except LayoutError:
            continue
        return count
    return max(smallest, 3)


def places(layout: SkipLayout) -> dict[int, tuple[int, int]]:
    """(u, j) of each block: an up block takes the skips of one stride, the deepest first."""
    found, b = {}, 0
    for u, (_, level) in enumerate(groupby(layout.strides)):
        for j, _ in enumerate(level):
            found[b] = (u, j)
            b += 1
    return found
