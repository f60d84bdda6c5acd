"""The training loop: update by update to the end, and whatever is due after each."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import SCEditError
from ..saving import save_tuner
from ..tuners import CSCTuner, SCTuner
from .batches import Batch
from .checkpoints import checkpoints_in
from .errors import TrainingError
from .machine import moved
from .new_tuner import trainable
from .objective import Problem, loss_of
from .processes import Processes
from .run import Run
from .run_folder import Stopped
from .tuner_file import save_trained
from .validation import Validation

_SKIPS = 20  # in a row; the first few find the scale, which begins at 2^16 and is halved each time


class Previews(Protocol):
    """Draws pictures while the training goes on."""

    def draw(self, step: int, tuner: SCTuner | CSCTuner) -> Path:
        """Draw with the tuner as it is, and return the file.  Raises Stopped, torch.OutOfMemoryError and OSError."""


def train_to_end(run: Run, previews: Previews | None) -> Path:
    """Update by update to the end, and whatever is due after each.  Raises Stopped where the run is asked to stop."""
    config, events, main = run.config, run.events, run.accelerator.is_main_process
    events.emit("plan", **plan(run))
    events.emit("remarks", remarks=[remark.values() for remark in run.remarks])
    validation = Validation(config, run.base, run.data) if config.validation.every and main else None
    while run.step < config.loop.steps:
        wish = due_after(run, *update(run), validation, previews)
        wish = agreed(run.accelerator, wish or run.folder.stop_wish())
        if wish and run.step < config.loop.steps:
            run.save()
            raise Stopped(wish)
    return finish(run)


def due_after(
    run: Run, loss: float, norm: float, rate: float, validation: Validation | None, previews: Previews | None
) -> str | None:
    """Tell of an update, measure, save and draw where it is time to; gives the wish to stop that was seen meanwhile."""
    config, wish = run.config, None
    run.events.emit(
        "step",
        step=run.step,
        steps=config.loop.steps,
        loss=loss,
        grad_norm=norm,
        learning_rate=rate,
        **({"skipped": run.skipped[0]} if run.scaler.is_enabled() else {}),
    )
    last = run.step == config.loop.steps
    if validation and (last or run.step % config.validation.every == 0):
        _validate(run, validation)  # before the checkpoint, which holds the best loss so far
    wanted = run.accelerator.is_main_process and run.folder.save_wish()
    if last or run.step % config.saving.every == 0 or wanted:
        run.save()  # before previews, which may run out of memory
    if previews and (last or run.step % config.previews.every == 0):
        wish = _preview(run, previews)
    return wish


def posed(run: Run, piece: int) -> tuple[Batch, Problem, Tensor | None, Tensor | None]:
    """Batch, problem, hints and masks of one of the passes of the next update, on the run's device."""
    loop, device = run.config.loop, run.accelerator.device
    size = loop.batch * run.accelerator.num_processes
    number = run.step * loop.accumulate + piece
    batch = run.data.batch(number, size, run.part)
    problem = run.objective.pose(moved(batch.latents, device), loop.seed, number, size, run.part)
    return batch, problem, *(None if x is None else moved(x, device) for x in (batch.hints, batch.masks))


def update(run: Run) -> tuple[float, float, float]:
    """One optimiser update.  Returns the mean loss, the norm of the gradient before it was clipped, and the rate.

    Raises TrainingError where loss or norm is not finite, the tuner then being as it was before, and where the gradient
    has not fitted into fp16 for so long that it never will.
    """
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
    return apply_update(run, losses)


def apply_update(run: Run, losses: Sequence[Tensor]) -> tuple[float, float, float]:
    """Change the tuner by the gradients that the passes of an update have left; see `update`."""
    loop, accelerator = run.config.loop, run.accelerator
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trainable(run.tuner), loop.max_grad_norm)
    mean = accelerator.reduce(torch.stack(losses).mean(), "mean")
    mean, norm = torch.stack([mean, norm.to(mean)]).tolist()  # one look at the device for both
    if not _finite(mean) or not (_finite(norm) or run.scaler.is_enabled()):
        what = "loss" if not _finite(mean) else "gradient"
        raise TrainingError(
            f"step {run.step + 1}: expected a finite {what}, found {norm if what == 'gradient' else mean}; lower "
            f"loop.learning_rate or use precision bf16 or fp32, then {_way_on(run)}"
        )
    rate, scale = run.optimizer.param_groups[0]["lr"], run.scaler.get_scale()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    if run.scaler.get_scale() < scale:
        _skip(run)
        return mean, norm, rate
    run.skipped = run.skipped[0], 0
    run.schedule.step()
    if run.ema is not None:
        run.ema.step(trainable(run.tuner))
    return mean, norm, rate


def _skip(run: Run) -> None:
    """Count an update that the scaler has skipped.  Raises TrainingError where it has skipped too many."""
    total, in_a_row = run.skipped[0] + 1, run.skipped[1] + 1
    run.skipped = total, in_a_row
    none = run.step == run.config.loop.steps == total
    if none or in_a_row >= _SKIPS:
        raise TrainingError(
            f"step {run.step}: expected gradients that fit into fp16, found that "
            f"{'all' if none else f'the last {in_a_row}'} updates were skipped since they do not; set loop.precision "
            f"to bf16 or fp32, then {_way_on(run)}"
        )


def plan(run: Run) -> dict[str, Any]:
    """What is about to happen, for people and for programs."""
    config, loop = run.config, run.config.loop
    seen = loop.batch * loop.accumulate * run.accelerator.num_processes
    return {
        "base": run.base.name,
        "family": run.base.layout.title,
        "prediction": run.base.prediction,
        "kind": config.tuner.kind,
        "condition": None if config.data.condition is None else config.data.condition.type,
        "parameters": sum(p.numel() for p in trainable(run.tuner)),
        "blocks": len(run.tuner.blocks),
        "skips": len(run.base.layout),
        "images": len(run.data.examples) or None,  # shards are not counted
        "resolution": config.data.resolution,
        "batch": seen,
        "first_step": run.step,
        "steps": loop.steps,
        "epochs": loop.steps * seen / len(run.data.examples) if run.data.examples else None,
        "teacher": None if run.lessons is None else run.lessons.plan(loop.steps),
        "precision": str(run.base.compute_dtype).removeprefix("torch."),
        "device": str(run.accelerator.device),
        "output": str(config.output),
    }


def _validate(run: Run, validation: Validation) -> None:
    numbers = validation.measure(run.result())
    run.events.emit("validation", step=run.step, **numbers)
    if run.best is None or numbers["loss_with"] < run.best:
        try:
            save_tuner(run.result(), run.folder.best, {**run.metadata(), "scedit.step": str(run.step)})
            run.best = numbers["loss_with"]
        except SCEditError as error:  # a full disk; the checkpoint says so too, and there it ends the run
            run.events.emit("note", message=str(error))


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
    run.events.emit("preview", step=run.step, path=str(path))
    return None


def finish(run: Run) -> Path:
    """Save the tuner's file, read back before it counts as saved."""
    run.save()
    path = run.config.output
    if run.accelerator.is_main_process:
        save_trained(run.result(), path, run.metadata(), run.base)
        run.events.emit("finished", step=run.step, path=str(path))
    run.accelerator.wait_for_everyone()
    return path


def agreed(processes: Processes, wish: str | None) -> str | None:
    """The wish of any process, so that all of them stop after the same step."""
    if processes.num_processes == 1:
        return wish
    flag = torch.tensor(float(wish is not None), device=processes.device)
    return (wish or "another process") if processes.reduce(flag, "sum").item() else None


def _way_on(run: Run) -> str:
    """How to go on with other settings: "latest" would refuse them, a path does not."""
    saved = checkpoints_in(run.folder.checkpoints)
    return f"go on with --resume {saved[-1]}" if saved else "start again"


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
