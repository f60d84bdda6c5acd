"""Where a run begins: anew, at the newest checkpoint, or at one that is named; what it leaves behind is put aside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from .. import SCEditError, load_tuner
from ..conditions.fitting import trained_fitting
from ..errors import TrainingError
from .checkpoints import EMA, STATE, TUNER, checkpoints_in, load_checkpoint
from .earlier import KEEP, later_parts, put_aside, remains_of
from .run import Run
from .settings import Settings
from .tuner_file import kept_on_the_way


def resume(run: Run, wish: str) -> None:
    """Bring `run` to where `wish` says: "never" (anew), "auto" (on where there is something), "latest", or a path.

    A checkpoint that is not whole is passed over for the one before it.  What another run has saved in the folder is
    put aside where this one begins anew or comes from elsewhere, and so are later checkpoints where it goes back.
    Raises TrainingError where "latest" finds none, and what `Run.restore` raises; nothing has been moved then.
    """
    if wish != "never":
        _restore(run, wish)
    run.accelerator.wait_for_everyone()  # others may still be reading
    if not run.accelerator.is_main_process:
        return
    if run.saved is not None:  # in this folder
        leave_later(run)
    else:
        leave_earlier(run)
    tell_of_nothing_left(run)


def tell_of_nothing_left(run: Run) -> None:
    """Note where all updates are done already."""
    if run.step >= run.config.loop.steps and run.budget is None:
        run.events.emit(
            "note",
            message=f"nothing to train: {run.step} steps are done and loop.steps is {run.config.loop.steps}; "
            "raise it to go on, or start anew with --resume never, which keeps the earlier run",
        )


def checkpoint_at(path: Path, config: Settings) -> Path:
    """The checkpoint that a path means: a checkpoint's folder or a file in it, the newest one of a run folder, or the
    one that a tuner's file was made of.

    Raises TrainingError where there is none.
    """
    if (path / STATE).is_file():
        return path
    if path.is_dir():
        found = checkpoints_in(path / "checkpoints") or checkpoints_in(path)
        for each in reversed(found):
            with contextlib.suppress(TrainingError):
                load_checkpoint(each)
                return each
        raise TrainingError(
            f"{path}: expected a checkpoint, a run folder or a tuner's file to go on from, found a folder without a "
            "whole checkpoint; choose another one"
        )
    if path.is_file() and (path.parent / STATE).is_file():
        return path.parent
    if path.is_file():
        return _made(path, config)
    raise TrainingError(
        f"{path}: expected a checkpoint, a run folder or a tuner's file to go on from, found nothing there; the "
        f"checkpoints of this run are in {config.run_folder / 'checkpoints'}"
    )


def _made(file: Path, config: Settings) -> Path:
    """The checkpoint whose tuner, or running mean of it, a file holds."""
    try:
        wanted = load_tuner(file).state_dict()
    except SCEditError as error:
        raise TrainingError(
            f"{file}: expected a checkpoint, a run folder or a tuner's file to go on from, found another file "
            f"({error}); choose a folder step-... in {config.run_folder / 'checkpoints'}"
        ) from error
    runs = dict.fromkeys((file.with_suffix(".run"), config.run_folder, file.parent))
    for checkpoint in (each for run in runs for each in reversed(checkpoints_in(run / "checkpoints"))):
        for name in (EMA, TUNER):
            with contextlib.suppress(SCEditError):
                if _equal(wanted, load_tuner(checkpoint / name).state_dict()):
                    return checkpoint
    raise TrainingError(
        f"{file}: expected a checkpoint, found a tuner's file, of which no checkpoint is left; to train it further, "
        "set tuner.start_from to it and output to another file, and leave out --resume"
    )


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _restore(run: Run, wish: str) -> None:
    if wish not in ("auto", "latest"):
        _go_on(run, checkpoint_at(Path(wish).expanduser(), run.config), any_config=True)
        return
    for path in reversed(checkpoints_in(run.folder.checkpoints)):
        try:
            _go_on(run, path)
            return
        except TrainingError as error:
            run.events.emit("note", message=str(error))
    if wish == "latest":
        raise TrainingError(
            f"{run.folder.checkpoints}: expected a checkpoint to resume from, found none that is whole; "
            "leave out --resume latest to begin at step 0, or check `run` and `output`"
        )


def _go_on(run: Run, path: Path, any_config: bool = False) -> None:
    run.restore(path, any_config)
    state, tuner, _ = load_checkpoint(path)
    if _own_hints(run) and "scedit.condition" in tuner.metadata and trained_fitting(tuner.metadata) is None:
        run.events.emit(
            "note",
            message=f"up to step {run.step} an older version of this pack trained, which blurred ready-made hints that "
            "are larger than their pictures; from here on they are fitted as the nodes do it. To have it so from the "
            "first step, start anew with --resume never, which keeps the earlier run",
        )
    others = run.changed_pictures(state)
    if others:
        run.events.emit("note", message=f"resumes from step {run.step} with {others} since then")


def _own_hints(run: Run) -> bool:
    """Whether hints are ready-made; of those in shards that is known where no others can be."""
    condition = run.config.data.condition
    own = any(example.hint is not None for example in run.data.examples)
    return condition is not None and (own or (run.shards is not None and condition.type == "custom"))


def leave_earlier(run: Run) -> None:
    """Put aside what another run has saved here, and the tuner that this one will replace."""
    remains, output = remains_of(run.folder.path), run.config.output
    if not remains and (run.step or not output.is_file()):
        return
    others = kept_on_the_way(output).values()
    there = put_aside(run.folder.path, remains, [output] if output.is_file() else [], others)
    run.events.set_aside(there)
    shown = os.path.normpath(there)
    what = "the earlier run is" if remains else f"the {output.name} that was there is"
    begins = f"resumes from step {run.step} of another folder" if run.step else "begins anew"
    run.events.emit(
        "note",
        message=f"{begins}; {what} kept in {shown} ({KEEP} are kept: the latest, and of the others those with the most "
        "steps)",
    )


def leave_later(run: Run) -> None:
    """Put aside what was saved after the step that the run goes on from."""
    moved, best = later_parts(run.folder.path, run.step), run.folder.best
    if moved:
        later = [path for step, path in kept_on_the_way(run.config.output).items() if step > run.step]
        there = put_aside(run.folder.path, moved, [best] if best.is_file() else [], later)
        shown = os.path.normpath(there / "checkpoints")
        names = ", ".join(path.name for path in moved if path.suffix != ".jpg")
        run.events.emit("note", message=f"resumes from step {run.step}; {names} moved to {shown}")
