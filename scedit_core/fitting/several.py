"""Several controls in one run, each from a ControlNet of its own: the same pictures, noise and noise levels for all.

Nothing that is trained feeds the encoder, so one pass of it serves all of them in each step.  What each learns is what
it would learn alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError
from .distilling import PICTURES, PREDICTIONS, RESIDUALS, residual_errors
from .loop import (
    Previews,
    apply_update,
    before_the_first,
    do_what_is_due,
    finish,
    measuring,
    posed,
    save_whole,
    tell,
)
from .objective import loss_of
from .planning import plan
from .resuming import tell_of_nothing_left
from .run import Run
from .run_folder import Stopped
from .sweep import due_together, passes_together, resume_together
from .told import Told


def train_students(runs: Sequence[Run], previews: Sequence[Previews | None], start: str = "auto") -> list[Path]:
    """Train all of `runs`, which have a teacher each, to the end; gives their files.

    start: "never" begins anew, else each resumes from the newest step that all of them have saved.

    Raises ConfigError where they do not see the same pictures or have other phases, Stopped where one of them is asked
    to stop, after all were saved.
    """
    first = runs[0]
    for run in runs[1:]:
        _check_alike(first, run)
    resume_together(runs, anew=start == "never")
    for run in runs:
        tell_of_nothing_left(run)
        run.events.emit("plan", **plan(run))
        run.events.emit("remarks", remarks=[remark.values() for remark in run.remarks])
    validations = [measuring(run) for run in runs]
    waiting: list[Told] = []
    try:
        wishes = [before_the_first(*each) for each in zip(runs, validations, previews, strict=True)]
        while first.step < first.config.loop.steps:
            wish = next(filter(None, (*wishes, *(run.folder.stop_wish() for run in runs))), None)
            if wish:
                raise Stopped(wish)
            made = [apply_update(*each) for each in zip(runs, passes_together(runs, _losses), strict=True)]
            _tell(runs, waiting)  # of the update before, so that the device never waits
            waiting = made
            due = due_together(runs)
            if any(due) or first.step == first.config.loop.steps:
                _tell(runs, waiting)
            wishes = [do_what_is_due(*each) for each in zip(runs, due, validations, previews, strict=True)]
    except Stopped:
        _tell(runs, waiting)
        for run in runs:
            save_whole(run)
        raise
    return [finish(run) for run in runs]


def _tell(runs: Sequence[Run], waiting: list[Told]) -> None:
    """Tell of an update of each; empties `waiting`."""
    told = waiting.copy()
    waiting.clear()
    for run, each in zip(runs, told, strict=bool(told)):
        tell(run, each)


def _losses(runs: Sequence[Run], piece: int) -> list[Tensor]:
    """Of each run what `Lessons.loss` asks for, of one of the passes of an update."""
    first, base = runs[0], runs[0].base
    batch, problem, own, masks = posed(first, piece)
    hints = [own, *(posed(run, piece)[2] for run in runs[1:])]
    phase = first.lessons.phase(first.step)
    asked = problem.noisy, problem.timesteps, batch.text, batch.sizes
    weights = batch.weights.to(problem.noisy.device)
    problems = [problem] * len(runs)
    if phase != PICTURES:
        teachers = [run.lessons.teacher for run in runs]
        wanted = [each.residuals(*asked[:2], hint, *asked[2:]) for each, hint in zip(teachers, hints, strict=True)]
    if phase == RESIDUALS:
        base.rest_decoder()
        skips = base.skips(*asked)
        pairs = zip(runs, hints, wanted, strict=True)
        errors = [residual_errors(run.tuner, skips, hint, added.skips, masks) for run, hint, added in pairs]
        return [(each * problem.weights * weights).mean() for each in errors]
    if phase == PREDICTIONS:
        with torch.no_grad():
            problems = [replace(problem, target=base.predict(*asked, added=added).float()) for added in wanted]
    edits = [(run.tuner, 1.0, hint) for run, hint in zip(runs, hints, strict=True)]
    said = base.predict(*asked, edits, apart=True).chunk(len(runs))
    return [loss_of(each, asks, masks, weights) for each, asks in zip(said, problems, strict=True)]


def _check_alike(first: Run, run: Run) -> None:
    """Raise ConfigError where a run does not go in step with the first."""
    here, there = run.config.output.name, first.config.output.name
    if [each.digest for each in run.data.examples] != [each.digest for each in first.data.examples]:
        raise ConfigError(
            f"{here}: expected hints for the same pictures as {there}, found {len(run.data.examples)} pictures with "
            f"hints, and {len(first.data.examples)} there; complete the hints, or train one after the other"
        )
    if run.lessons.planned != first.lessons.planned:
        raise ConfigError(
            f"{here}: expected the same phases as {there}, found {run.lessons.planned}, and {first.lessons.planned} "
            "there; say the same in teacher.residuals and teacher.predictions, or train one after the other"
        )
