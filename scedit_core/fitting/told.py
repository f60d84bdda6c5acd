"""What an update has come to: numbers on their way from the device, and in fp16 whether it was made at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import TrainingError
from .checkpoints import checkpoints_in
from .machine import Arriving
from .new_tuner import trainable

if TYPE_CHECKING:
    from .run import Run

_SKIPS = 20  # in a row; the first few find the scale, which begins at 2^16 and is halved each time


@dataclass
class Told:
    """What an update has come to.

    step:    the updates that are done with it.
    rate:    the learning rate that it was made with.
    numbers: loss and norm.
    skipped: those that were skipped so far, of fp16 and once it is settled, else None.
    """

    step: int
    rate: float
    numbers: Arriving
    skipped: int | None = None

    def read(self) -> tuple[float, float]:
        """The mean loss, and the norm of the gradient before it was clipped; waits for the device to come there."""
        return self.numbers.read()


def settle(run: Run) -> None:
    """See to it that the last update counts as made or as skipped, which in fp16 the device decides by itself.

    Waits for the device to have come to the end of that update.  Where it was skipped, the learning rate and the
    running mean stay.  Raises TrainingError where so many were that none will ever be made.
    """
    told, run.unsettled = run.unsettled, None
    if told is None:
        return
    if math.isfinite(told.read()[1]):
        run.skipped = run.skipped[0], 0
        advance(run)
    else:
        _skip(run, told)
    told.skipped = run.skipped[0]


def advance(run: Run) -> None:
    """Take an update that was made into the learning rate's schedule and the running mean."""
    run.schedule.step()
    if run.ema is not None:
        run.ema.step(trainable(run.tuner))


def _skip(run: Run, told: Told) -> None:
    """Count an update that the scaler has skipped.  Raises TrainingError where it has skipped too many."""
    total, in_a_row = run.skipped[0] + 1, run.skipped[1] + 1
    run.skipped = total, in_a_row
    none = told.step == run.config.loop.steps == total
    if none or in_a_row >= _SKIPS:
        raise TrainingError(
            f"step {told.step}: expected gradients that fit into fp16, found that "
            f"{'all' if none else f'the last {in_a_row}'} updates were skipped since they do not; set loop.precision "
            f"to bf16 or fp32, then {way_on(run)}"
        )


def way_on(run: Run) -> str:
    """How to go on with other settings: "latest" would refuse them, a path does not."""
    saved = checkpoints_in(run.folder.checkpoints)
    return f"go on with --resume {saved[-1]}" if saved else "start again"
