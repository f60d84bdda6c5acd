"""Earlier runs: what a run folder holds of them is put aside when another one begins there, never written over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .. import SCEditError, inspect_tuner
from ..errors import TrainingError
from .checkpoints import checkpoints_in, step_of

FOLDER = "earlier"
KEEP = 3
# What a run leaves in its folder, beside its log, which is open; the checkpoints first, since they are what counts.
PARTS = ("checkpoints", "best.safetensors", "previews", "tensorboard", "report.html", "config.yaml")


def put_aside(run: Path, parts: Iterable[Path], replaced: Iterable[Path] = (), moved: Iterable[Path] = ()) -> Path:
    """Move `parts` of a run folder, and files `moved` from elsewhere, into a new folder of `run`/earlier and return
    that; files that will be `replaced` get a second name there, and stay where they are until then.

    Folders are numbered, since a clock may be set back.  Raises TrainingError where something cannot be moved.
    """
    there = run / FOLDER / str(max(map(_number, _kept(run)), default=0) + 1)
    try:
        there.mkdir(parents=True)
        for part in parts:
            place = there / part.relative_to(run)
            place.parent.mkdir(parents=True, exist_ok=True)
            part.replace(place)
        moved = list(moved)
        for file in (*replaced, *moved):
            _link(file, there / file.name)
        for file in moved:
            file.unlink()
    except OSError as error:
        raise TrainingError(
            f"{run}: expected permission to move the earlier run to {there}, found none ({error.strerror or error}); "
            "move it yourself, or choose another folder with `run`"
        ) from error
    return there


def remains_of(run: Path) -> list[Path]:
    """What a run folder holds of a run that has saved something, to be put aside; nothing where it has not."""
    parts = [run / name for name in PARTS if (run / name).exists()]
    saved = (run / "best.safetensors").exists() or any((run / "checkpoints").glob("*"))
    return parts if saved else []


def later_parts(run: Path, step: int) -> list[Path]:
    """Checkpoints of more than `step` steps, and the previews beyond it where there are any: left where they are, a
    run that goes on from `step` would find those checkpoints the newest."""
    checkpoints = [path for path in checkpoints_in(run / "checkpoints") if step_of(path) > step]
    pictures = [p for p in (run / "previews").rglob("step-*.jpg") if int(p.stem.split("-")[1]) > step]
    return [*checkpoints, *pictures] if checkpoints else []


def forget_surplus(run: Path) -> list[Path]:
    """Remove what is more than `KEEP` earlier runs and return it: never the latest, of the others those with the
    fewest steps, so that a long run outlives any number of short ones."""
    *others, _ = sorted(_kept(run), key=_number) or [None]
    surplus = sorted(others, key=lambda path: (_steps(path), _number(path)))[: max(0, len(others) - KEEP + 1)]
    for path in surplus:
        shutil.rmtree(path, ignore_errors=True)
    return surplus


def _kept(run: Path) -> list[Path]:
    return [path for path in (run / FOLDER).glob("*") if path.name.isdigit() and path.is_dir()]


def _steps(path: Path) -> int:
    """How far a run had come, by its checkpoints and tuners."""
    found = [step_of(each) for each in checkpoints_in(path / "checkpoints")]
    for file in path.glob("*.safetensors"):
        with contextlib.suppress(SCEditError, ValueError, KeyError, TypeError):
            found.append(int(json.loads(inspect_tuner(file)["metadata"]["scedit.training"])["steps"]))
    return max(found, default=0)


def _number(path: Path) -> int:
    return int(path.name)


def _link(file: Path, place: Path) -> None:
    """A second name for a file, or a copy where the disk has no such thing."""
    try:
        os.link(file.resolve(), place)
    except OSError:
        shutil.copy2(file, place)
