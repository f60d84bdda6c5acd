"""A factor for each block of a U-Net: written as a list or chosen by name, checked against the number of skips."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import SCEditError

CUSTOM = "custom"
PRESETS = {
    "flat": lambda depth: 1.0,
    "shallow only": lambda depth: float(depth >= 0.5),
    "deep only": lambda depth: float(depth < 0.5),
    "ramp to shallow": lambda depth: depth,
    "ramp to deep": lambda depth: 1.0 - depth,
}


@dataclass(frozen=True)
class BlockWeights:
    """Factors in block order (block 0 is the deepest), or the name of a preset that fits any number of blocks.

    preset: "flat" (1 everywhere), "shallow only" and "deep only" (1 on that half, 0 on the other), "ramp to shallow"
            (0 on the deepest block, rising evenly to 1), "ramp to deep" (the reverse), or "custom" for `values`.
    """

    preset: str = "flat"
    values: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> BlockWeights:
        """From a comma list such as "1, 1, 0.5".  Raises SCEditError for anything but finite numbers."""
        entries = [entry.strip() for entry in text.strip().strip(",").split(",")]
        try:
            values = tuple(float(entry) for entry in entries)
        except ValueError:
            values = ()
        if not values or not all(math.isfinite(value) for value in values):
            raise SCEditError(
                f"block weights: expected numbers between commas, such as 1, 1, 0.5, found {text[:80]!r}; "
                "write one number for each block, the deepest first"
            )
        return cls(CUSTOM, values)

    def for_blocks(self, count: int) -> tuple[float, ...]:
        """The factors of `count` blocks.  Raises SCEditError for a list of another length or an unknown preset."""
        if self.preset == CUSTOM:
            if len(self.values) != count:
                raise SCEditError(
                    f"block weights: expected {count} numbers for this U-Net, found {len(self.values)}; "
                    "write one for each block, the deepest first"
                )
            return self.values
        if self.preset not in PRESETS:
            raise SCEditError(
                f"block weights: expected one of {', '.join([*PRESETS, CUSTOM])}, found {self.preset[:80]!r}; "
                "choose one of them"
            )
        return tuple(PRESETS[self.preset](b / max(1, count - 1)) for b in range(count))
