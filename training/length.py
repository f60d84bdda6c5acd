"""How many updates a run has, where its configuration says epochs or minutes."""

from __future__ import annotations

import math
import time

import torch

from scedit_core.fitting.budget import of_length, updates_within
from scedit_core.fitting.loop import passes
from scedit_core.fitting.rates import rate_remarks
from scedit_core.fitting.run import Run

from .config import LoopConfig, TrainConfig
from .memory.compiling import LONG_RUN

_LONG = 20  # minutes
_TIMED = 3  # updates, after one that is not: memory is taken in it, and kernels are chosen


def with_epochs_counted(config: TrainConfig, rows: int | None, processes: int) -> TrainConfig:
    """The configuration with its epochs as updates; `rows` are in a round, and are seen by `processes` together."""
    loop = config.loop
    if loop.epochs is None:
        return config
    seen = loop.batch * loop.accumulate * processes
    return config.model_copy(update={"loop": of_length(loop, math.ceil(loop.epochs * rows / seen))})


def likely_steps(loop: LoopConfig) -> int:
    """About how many updates a run has, where that is not yet known: many or few."""
    return loop.steps if loop.minutes is None else LONG_RUN if loop.minutes >= _LONG else 0


def settle_budget(run: Run) -> None:
    """Find out how many updates a run with a budget of minutes has time for, unless its checkpoint says so.

    A few updates are timed and not made, so that nothing that is trained depends on it.
    """
    budget = run.budget
    if budget is None:
        return
    if budget.steps is None:
        budget.steps = run.step
        if budget.left > 0:
            budget.steps += updates_within(run.config, budget.left, _seconds_of_an_update(run))
    run.set_steps(budget.steps)
    if run.step >= budget.steps:
        run.events.emit(
            "note",
            message=f"nothing to train: {run.step} updates were done in {budget.spent / 60:.1f} minutes; raise "
            "loop.minutes to go on, or start anew with --resume never, which keeps the earlier run",
        )
    run.remarks.take(rate_remarks(run.config.loop))


def _seconds_of_an_update(run: Run) -> float:
    device = run.accelerator.device
    times = []
    for _ in range(1 + _TIMED):
        begun = time.perf_counter()
        passes(run)
        run.optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    mean = torch.tensor(sum(times[1:]) / _TIMED, device=device)
    return run.accelerator.reduce(mean, "mean").item()  # all processes go on for as many updates
