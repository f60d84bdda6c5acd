"""Learning rates that an optimiser can use, and warmups that fit into a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .optimizers import KINDS
from .remarks import Remarks

if TYPE_CHECKING:
    from .settings import LoopSettings

_WARMUP = 50  # updates
_SHORT = 10  # updates from one beginning of the rate to the next


def default_warmup(steps: int) -> int:
    """The updates of warmup of a run that names none: a tenth of all, at most 50."""
    return min(_WARMUP, steps // 10)


def rate_remarks(loop: LoopSettings) -> Remarks:
    """A warmup that does not end within the run, restarts that leave no time between them, and a rate of which the
    optimiser makes nothing."""
    remarks = Remarks()
    if loop.warmup >= loop.steps:
        remarks.add(
            f"loop.warmup is {loop.warmup} in a run of {loop.steps} steps, so that the rate never reaches "
            f"loop.learning_rate: {(loop.steps - 1) / loop.warmup:.0%} of it at most",
            f"set it to {default_warmup(loop.steps)} or leave it out",
        )
    elif loop.restarts and loop.steps - loop.warmup < _SHORT * (loop.restarts + 1):
        remarks.add(
            f"loop.restarts is {loop.restarts} in a run of {loop.steps} steps, so that the rate begins anew after "
            f"{(loop.steps - loop.warmup) / (loop.restarts + 1):.1f} of them",
            "lower it",
        )
    kind = KINDS[loop.optimizer]
    low, high = kind.usable
    if not low <= loop.learning_rate <= high:
        what = "too little to learn anything" if loop.learning_rate < low else "too much to learn anything but noise"
        finds = ", which finds its own rate and multiplies it by this one" if loop.optimizer == "prodigy" else ""
        remarks.add(
            f"loop.learning_rate is {loop.learning_rate:g}, {what} with {loop.optimizer}{finds}",
            f"set it to {kind.rate:g} or leave it out",
        )
    return remarks
