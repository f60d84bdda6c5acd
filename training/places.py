"""Where a run writes: nowhere that it reads from, and over no file that is not a tuner."""

from __future__ import annotations

import os
from pathlib import Path

from scedit_core import SCEditError, inspect_tuner
from scedit_core.errors import ConfigError
from scedit_core.fitting.earlier import FOLDER, PARTS
from scedit_core.fitting.tuner_file import on_the_way

from .config import TrainConfig
from .config_section import with_paths
from .data.survey import cache_folder

_OUTPUTS = {"output", "run", "data.cache"}
_CACHED = ("latents", "texts", "hints", "masks", "held")


def check_places(config: TrainConfig) -> None:
    """Raise ConfigError where something that the run reads lies where it would write, before anything is written.

    What is read are all files and folders that the configuration names.  Links are followed.
    """
    run, cache = config.run_folder, cache_folder(config)
    written = {
        "output": config.output,
        "run": run,
        **{f"run ({name})": run / name for name in (*PARTS, FOLDER, "events.jsonl")},
        "data.cache": cache,
        **{f"data.cache ({name})": cache / name for name in _CACHED},
    }
    for key, path in _read(config):
        for place, taken in written.items():
            if _same(path, taken) or ("(" in place and _inside(path, taken)):
                own = place.partition(" ")[0]
                raise ConfigError(
                    f"{own}: expected a place that nothing is read from, found {taken}, where {key} lies ({path}); "
                    f"choose another {own}, or copy that elsewhere"
                )
    if config.saving.tuners:
        for key, path in _read(config):
            if _step_of(path, config.output):
                raise ConfigError(
                    f"output: expected a place that nothing is read from, found {config.output.name}, whose tuners on "
                    f"the way are named as {key} is ({path}); choose another output, or copy that elsewhere"
                )
        for path in config.output.parent.glob("*.safetensors"):
            if _step_of(path, config.output):
                _check_replaced(path)
    for place, taken in written.items():
        if place != "output" and (_same(config.output, taken) or ("(" in place and _inside(config.output, taken))):
            raise ConfigError(
                f"output: expected a place outside of what the run keeps in {run}, found {config.output}; choose "
                "another output"
            )
    _check_replaced(config.output)


def _check_replaced(output: Path) -> None:
    """A tuner of this pack may be replaced; any other file is somebody's."""
    if not output.exists() or (output.is_file() and not output.stat().st_size):
        return
    kind = "a folder"
    if output.is_file():
        try:
            found = inspect_tuner(output)
            if "scedit.format" in found["metadata"]:
                return
            kind = f"a tuner of {found['format']}"
        except SCEditError:
            kind = "another kind of file"
    raise ConfigError(
        f"output: expected a new name, or a tuner of this trainer to replace, found {kind} at {output}; choose "
        "another output"
    )


def _read(config: TrainConfig) -> list[tuple[str, Path]]:
    """Key and path of everything that a configuration names to be read."""
    found: list[tuple[str, Path]] = []
    with_paths(config, lambda *named: found.append(named))
    return [(key, path) for key, path in found if key not in _OUTPUTS]


def _step_of(path: Path, output: Path) -> bool:
    """Whether a path is that of a tuner on the way to `output`."""
    step = path.stem.rpartition("-step-")[2]
    return step.isdigit() and _same(path, on_the_way(output, int(step)))


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)  # hard links, too
    except OSError:
        return one.resolve() == other.resolve()


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
