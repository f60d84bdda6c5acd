"""Checkpoints from which a run goes on exactly: written whole or not at all, the last few kept."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import CSCTuner, SCEditError, SCTuner, load_tuner, save_tuner
from .errors import TrainingError

TUNER, EMA, STATE = "tuner.safetensors", "ema.safetensors", "state.pt"
ASIDE = "aside"
_PREFIX = "step-"


@dataclass
class State:
    """What a run needs beside the weights.

    step:     optimiser updates done.
    config:   the run's settings as plain values, to be compared when it is resumed.
    best:     the lowest validation loss so far.
    parts:    state dicts by name: optimizer, schedule, scaler, ema.
    pictures: what was trained on, as `Run.pictures` says it.
    measured: what `best` was measured on, as `Run.measured` says it.
    """

    step: int
    config: dict[str, Any]
    best: float | None
    parts: dict[str, Any]
    pictures: str | None = None
    measured: str | None = None


def save_checkpoint(
    folder: Path, state: State, tuner: SCTuner | CSCTuner, ema: SCTuner | CSCTuner | None, metadata: dict[str, str]
) -> Path:
    """Write `folder`/step-N and return it: under another name first, synced, then renamed.

    Raises TrainingError where it cannot be written; what was there before stays as it was.
    """
    path = folder / f"{_PREFIX}{state.step:06d}"
    part = folder / f"{path.name}.part-{os.getpid()}"
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a killed run; in a container every run has the same number
        part.mkdir(parents=True)
        save_tuner(tuner, part / TUNER, metadata)
        if ema is not None:
            save_tuner(ema, part / EMA, metadata)
        with open(part / STATE, "wb") as file:
            torch.save(vars(state), file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # a step that was saved by wish and again at its end
            shutil.rmtree(path)
        os.replace(part, path)
    except (OSError, RuntimeError, SCEditError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = " ".join(str(error).split())[:160]
        raise TrainingError(
            f"{path}: expected room and permission for a checkpoint, found neither or one ({reason}); free some "
            "space, then start again with --resume latest, which goes on from the last checkpoint that is whole"
        ) from error
    _sync(folder)
    return path


def load_checkpoint(path: Path) -> tuple[State, SCTuner | CSCTuner, SCTuner | CSCTuner | None]:
    """State, tuner and mean tuner of a checkpoint folder.  Raises TrainingError where it is not whole."""
    try:
        values = torch.load(path / STATE, map_location="cpu", weights_only=True)
        state = State(**values)
        ema = load_tuner(path / EMA) if (path / EMA).exists() else None
        return state, load_tuner(path / TUNER), ema
    except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError, SCEditError) as error:
        reason = " ".join(str(error).split())[:160]
        raise TrainingError(
            f"{path}: expected a whole checkpoint, found one that cannot be read ({reason}); "
            "resume from another one or use --resume never"
        ) from error


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in folder.glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit() and (p / STATE).is_file()]
    return sorted(found, key=_number)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what interrupted saves have left."""
    old = [*checkpoints_in(folder)[:-keep], *folder.glob(f"{_PREFIX}*.part-*")]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)


def set_aside(folder: Path, step: int) -> list[Path]:
    """Move checkpoints of more than `step` steps to `folder`/aside, and return them there.

    For a run that goes on from an earlier one: left where they are, they would be the newest.  Raises TrainingError
    where they cannot be moved.
    """
    moved = []
    try:
        for path in checkpoints_in(folder):
            if _number(path) > step:
                (folder / ASIDE).mkdir(exist_ok=True)
                there = folder / ASIDE / path.name
                shutil.rmtree(there, ignore_errors=True)
                moved.append(path.replace(there))
    except OSError as error:
        raise TrainingError(
            f"{folder}: expected permission to move later checkpoints into its folder {ASIDE}, found none "
            f"({error.strerror or error}); move them away, or give the run another folder"
        ) from error
    return moved


def forget_checkpoints(folder: Path) -> None:
    """Remove them all, for a run that begins anew."""
    shutil.rmtree(folder, ignore_errors=True)


def _number(path: Path) -> int:
    return int(path.name[len(_PREFIX) :])


def _sync(folder: Path) -> None:
    """Have the rename itself on the disk; where the system cannot open folders it does so by itself."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
