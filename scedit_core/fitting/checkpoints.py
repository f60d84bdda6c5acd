"""Checkpoints from which a run goes on exactly: written whole or not at all, the last few kept."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import CSCTuner, SCEditError, SCTuner, load_tuner, save_tuner
from ..errors import TrainingError, in_short

TUNER, EMA, STATE = "tuner.safetensors", "ema.safetensors", "state.pt"
_PREFIX = "step-"


@dataclass
class State:
    """What a run needs beside the weights.

    step:     optimiser updates done.
    config:   the run's settings as plain values, to be compared when it is resumed.
    best:     the lowest validation loss so far.
    parts:    state dicts by name: optimizer, schedule, scaler, ema.
    pictures: a digest of all that was trained on.
    measured: what `best` was measured on, as `Run.measured` says it.
    files:    digests of the base and of other files that the numbers depend on, by key of the configuration.
    contents: a digest of each picture that was trained on, with its caption, hint and mask.

    The last four are None in checkpoints from before they were kept.
    """

    step: int
    config: dict[str, Any]
    best: float | None
    parts: dict[str, Any]
    pictures: str | None = None
    measured: str | None = None
    files: dict[str, str | None] | None = None
    contents: list[str] | None = None


def save_checkpoint(
    folder: Path, state: State, tuner: SCTuner | CSCTuner, ema: SCTuner | CSCTuner | None, metadata: dict[str, str]
) -> Path:
    """Write `folder`/step-N and return it: under another name first, synced, then renamed.

    Raises TrainingError where it cannot be written; what was there before stays as it was.
    """
    path = folder / f"{_PREFIX}{state.step:06d}"
    part, old = (folder / f"{path.name}.{kind}-{os.getpid()}" for kind in ("part", "part-old"))
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
        if path.exists():
            path.replace(old)
        os.replace(part, path)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SCEditError) as error:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not path.exists():
            old.replace(path)
        reason = in_short(error.__cause__ or error)  # what a path of any length cannot push out
        kept = checkpoints_in(folder)
        way_on = f"the same command without --resume goes on from {kept[-1].name}" if kept else "start again"
        raise TrainingError(
            f"{path}: expected room and permission for a checkpoint, found neither or one ({reason}); free some "
            f"space or change the permission, then {way_on}"
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
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise TrainingError(
            f"{path}: expected a whole checkpoint, found one that cannot be read ({in_short(error)}); "
            "resume from another one or use --resume never"
        ) from error


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in folder.glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit() and (p / STATE).is_file()]
    return sorted(found, key=step_of)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what interrupted saves have left."""
    old = [*checkpoints_in(folder)[:-keep], *folder.glob(f"{_PREFIX}*.part-*")]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The updates that were done when a checkpoint was written."""
    return int(checkpoint.name[len(_PREFIX) :])


def _sync(folder: Path) -> None:
    """Have the rename itself on the disk; where the system cannot open folders it does so by itself."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
