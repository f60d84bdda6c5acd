"""The training loop: update by update to the end, and whatever is due after each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import SCEditError, TrainingError
from ..saving import save_tuner
from ..tuners import CSCTuner, SCTuner
from .batches import Batch
from .following import unlike_hints
from .machine import Arriving, moved
from .new_tuner import trainable
from .objective import Problem, loss_of
from .planning import plan
from .processes import Wishes, agreed
from .run import Run
from .run_folder import Stopped
from .told import Told, advance, settle, way_on
from .tuner_file import STEP, on_the_way, save_trained
from .validation import Validation


class Previews(Protocol):
    """Draws pictures while the training goes on.

    told: numbers of the last pictures by name, such as how well edges are followed (following.py).
    """

    told: dict[str, Any]

    def draw(self, step: int, tuner: SCTuner | CSCTuner) -> Path:
        """Draw with the tuner as it is, and return the file.  Raises Stopped, torch.OutOfMemoryError and OSError."""


def train_to_end(run: Run, previews: Previews | None) -> Path:
    """Update by update to the end, and whatever is due after each.  Raises Stopped where the run is asked to stop.

    What an update has come to is read while the next one is on its way, so that the device never waits; before anything
    is saved, measured or drawn it is read at once.
    """
    events = run.events
    events.emit("plan", **plan(run), **({} if run.budget is None else {"minutes": run.budget.minutes}))
    events.emit("remarks", remarks=[remark.values() for remark in run.remarks])
    if run.budget is not None:
        run.budget.start()
    waiting: Told | None = None
    try:
        with run.folder.interruptible():
            validation = measuring(run)
            wish = stop = before_the_first(run, validation, previews)
            wishes = Wishes(run.accelerator)
            while run.step < run.config.loop.steps and not stop:
                told = update(run)
                if waiting is not None:
                    tell(run, waiting)
                waiting = told
                wish = wish or run.folder.stop_wish()
                stop, over = wishes.share(wish, run.budget is not None and run.budget.left <= 0)
                if over:
                    _end_here(run)
                due = due_now(run)
                if stop and run.step < run.config.loop.steps:
                    due.discard("preview")
                if due or stop:
                    waiting = tell(run, waiting)
                if due:
                    wish = do_what_is_due(run, due, validation, previews) or wish
                    stop = stop or (wish if wishes.at_once else None)
    except Stopped:
        if waiting is not None:
            tell(run, waiting)
        save_whole(run)
        raise
    if waiting is not None:  # another process wants to stop
        tell(run, waiting)
    if stop and run.step < run.config.loop.steps:
        run.save()
        keep_tuner(run)
        raise Stopped(stop)
    return finish(run)


def measuring(run: Run) -> Validation | None:
    """What measures the run, on the process that does; tells of a teacher that does not follow the hints."""
    if not run.config.validation.every or not run.accelerator.is_main_process:
        return None
    validation = Validation(run.config, run.base, run.data, None if run.lessons is None else run.lessons.teacher)
    if run.step < run.config.loop.steps:
        _warn(run, validation.unlike_hints())
    return validation


def save_whole(run: Run) -> None:
    """Save a run as its last whole update left it, where the next one, or what was due, was broken off."""
    settle(run)
    run.optimizer.zero_grad(set_to_none=True)
    if run.step:
        run.save()
        keep_tuner(run)


def tell(run: Run, told: Told) -> None:
    """Tell of an update.

    Raises TrainingError where its loss or norm is not finite, or see `settle`: nothing is saved from then on.
    """
    if run.unsettled is told:
        settle(run)
    loss, norm = told.read()
    if not math.isfinite(loss) or not (math.isfinite(norm) or run.scaler.is_enabled()):
        what, found = ("gradient", norm) if math.isfinite(loss) else ("loss", loss)
        raise TrainingError(
            f"step {told.step}: expected a finite {what}, found {found}; lower "
            f"loop.learning_rate or use precision bf16 or fp32, then {way_on(run)}"
        )
    run.events.emit(
        "step",
        step=told.step,
        steps=run.config.loop.steps,
        loss=loss,
        grad_norm=norm,
        learning_rate=told.rate,
        **({} if told.skipped is None else {"skipped": told.skipped}),
        **({} if run.budget is None else {"seconds_left": run.budget.left}),
    )


def due_now(run: Run) -> set[str]:
    """What is to be done after the update that was made last: "validation", "save", "tuner", "preview"."""
    config = run.config
    last = run.step == config.loop.steps
    every = {
        "validation": config.validation.every,
        "save": config.saving.every,
        "tuner": config.saving.tuners,
        "preview": config.previews.every,
    }
    due = {what for what, often in every.items() if often and (last or run.step % often == 0)}
    if run.accelerator.is_main_process and run.folder.save_wish():
        due.add("save")
    return due


def do_what_is_due(
    run: Run, due: Collection[str], validation: Validation | None, previews: Previews | None
) -> str | None:
    """Measure, save and draw; gives the wish to stop that was seen meanwhile."""
    if "validation" in due and validation:
        _validate(run, validation)  # before the checkpoint, which holds the best loss so far
    if "save" in due:
        run.save()  # before previews, which may run out of memory
    if "tuner" in due and run.step < run.config.loop.steps:  # the last one is the output
        keep_tuner(run)
    return _preview(run, previews) if "preview" in due and previews else None


def before_the_first(run: Run, validation: Validation | None, previews: Previews | None) -> str | None:
    """Measure and draw what the run begins with, where it is asked for; gives the wish to stop that was seen."""
    if run.step:
        return None
    if validation and run.config.validation.first:
        _measured(run, validation)
    if not run.config.previews.first:
        return None
    return agreed(run.accelerator, _preview(run, previews) if previews else None)


def _end_here(run: Run) -> None:
    """Make the update that was made last the end of the run, since its time is over."""
    planned = run.config.loop.steps
    if run.step < planned:
        run.budget.steps = run.step
        run.set_steps(run.step)
        message = f"the {run.budget.minutes:g} minutes are over after {run.step} updates of {planned} that were planned"
        run.events.emit("note", message=message)


def posed(run: Run, piece: int) -> tuple[Batch, Problem, Tensor | None, Tensor | None]:
    """Batch, problem, hints and masks of one of the passes of the next update, on the run's device."""
    loop, device = run.config.loop, run.accelerator.device
    size = loop.batch * run.accelerator.num_processes
    number = run.step * loop.accumulate + piece
    batch = run.data.batch(number, size, run.part)
    problem = run.objective.pose(moved(batch.latents, device), loop.seed, number, size, run.part)
    return batch, problem, *(None if x is None else moved(x, device) for x in (batch.hints, batch.masks))


def passes(run: Run) -> list[Tensor]:
    """The forward and backward passes of the next update; gives their losses, on the device."""
    loop, accelerator = run.config.loop, run.accelerator
    losses = []
    for piece in range(loop.accumulate):
        batch, problem, hints, masks = posed(run, piece)
        last = piece == loop.accumulate - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(run.step_module):
            if run.lessons is not None:
                loss = run.lessons.loss(run.step_module, run.step, problem, hints, masks, batch)
            else:
                prediction = run.step_module(problem.noisy, problem.timesteps, hints, batch.text, batch.sizes)
                loss = loss_of(prediction, problem, masks, moved(batch.weights, accelerator.device))
            accelerator.backward(run.scaler.scale(loss))
        losses.append(loss.detach())
    return losses


def update(run: Run) -> Told:
    """One optimiser update.

    Raises TrainingError where the gradient has not fitted into fp16 for so long that it never will.
    """
    return apply_update(run, passes(run))


def apply_update(run: Run, losses: Sequence[Tensor]) -> Told:
    """Change the tuner by the gradients that the passes of an update have left; see `update`."""
    settle(run)  # the one before, which is long done: its successor's passes keep the device at work
    loop, accelerator = run.config.loop, run.accelerator
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trainable(run.tuner), loop.max_grad_norm)
    mean = accelerator.reduce(torch.stack(losses).mean(), "mean")
    told = Told(run.step + 1, run.rate, Arriving(torch.stack([mean, norm.to(mean)])))
    run.scaler.step(run.optimizer)  # in fp16 a fused optimiser skips on the device, others ask it first
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    if run.scaler.is_enabled():
        run.unsettled = told
    else:
        advance(run)
    return told


def _validate(run: Run, validation: Validation) -> None:
    numbers = _measured(run, validation)
    if numbers is not None and (run.best is None or numbers["loss_with"] < run.best):
        try:
            save_tuner(run.result(), run.folder.best, {**run.metadata(), STEP: str(run.step)})
            run.best = numbers["loss_with"]
        except SCEditError as error:  # a full disk; the checkpoint says so too, and there it ends the run
            run.events.emit("note", message=str(error))


def _measured(run: Run, validation: Validation) -> dict[str, Any] | None:
    """What a validation tells, and what all listen to; None where it overflows, which is noted."""
    numbers = validation.measure(run.result())
    if all(math.isfinite(each) for each in numbers.values() if isinstance(each, float)):
        run.events.emit("validation", step=run.step, **numbers)
        return numbers
    run.events.emit(
        "note",
        message=f"step {run.step}: no validation loss, since it is not finite; lower loop.learning_rate, and use bf16 "
        "or fp32 where loop.precision is fp16",
    )
    return None


def _preview(run: Run, previews: Previews) -> str | None:
    """Draw; gives the wish to stop that was seen meanwhile."""
    try:
        path = previews.draw(run.step, run.result())
    except Stopped as stop:
        return stop.args[0]
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        run.events.emit("note", message=f"step {run.step}: no memory for previews; set previews.count to less")
        return None
    except OSError as error:  # a full disk, or a picture that another program holds open
        run.events.emit("note", message=f"step {run.step}: no previews ({error.strerror or error}); the run goes on")
        return None
    again = getattr(previews, "found_again", None)
    run.events.emit(
        "preview", step=run.step, path=str(path), **previews.told, **({} if again is None else {"found_again": again})
    )
    _warn(run, unlike_hints(previews.told))
    return None


def _warn(run: Run, sentence: str | None) -> None:
    """Note a sentence once."""
    if sentence is not None and sentence not in run.noted:
        run.noted.add(sentence)
        run.events.emit("note", message=sentence)


def finish(run: Run) -> Path:
    """Save the tuner's file, read back before it counts as saved."""
    run.save()
    path = run.config.output
    if run.accelerator.is_main_process:
        save_trained(run.result(), path, run.metadata(), run.base)
        run.events.emit("finished", step=run.step, path=str(path))
    run.accelerator.wait_for_everyone()
    return path


def keep_tuner(run: Run) -> None:
    """Keep the tuner as it is now in a file beside the output, where such files are asked for."""
    if not run.config.saving.tuners or not run.step or not run.accelerator.is_main_process:
        return
    path = on_the_way(run.config.output, run.step)
    try:
        save_trained(run.result(), path, {**run.metadata(), STEP: str(run.step)}, run.base)
        run.events.emit("tuner", step=run.step, path=str(path))
    except SCEditError as error:  # the checkpoint is there
        run.events.emit("note", message=str(error))
