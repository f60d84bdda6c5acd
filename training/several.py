"""Several controls in one run, each from a ControlNet of its own and with a configuration of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from scedit_core.errors import ConfigError
from scedit_core.fitting.events import told_of_the_end
from scedit_core.fitting.run import Run
from scedit_core.fitting.run_folder import open_run
from scedit_core.fitting.several import train_students

from .config import TrainConfig
from .data.survey import cache_folder
from .loop import out_of_memory, prepare
from .refusing import refuse_early
from .seeing.listening import open_events
from .seeing.previews import Previews
from .seeing.run_config import write_run_config

# What may differ between them; the rest is shared.
_OWN = {"output", "run", "title", "tuner", "teacher", "saving", "previews", "validation", "tensorboard", "wandb"}
_OWN_DATA = {"condition", "hints", "cache", "annotators"}


def train_several(
    configs: Sequence[TrainConfig],
    console: Console | None = None,
    *,
    start: str = "auto",
    allow_download: bool = False,
    since: float | None = None,
) -> list[Path] | None:
    """Train a control for each of `configs` on one base and the same pictures, with one pass of the encoder for all.

    start: "auto" resumes from the newest step that all of them have saved, "never" begins anew.

    Returns the paths of the saved tuners, or None where the run was stopped (it can be resumed).  The terminal shows
    the first of them; each has its own report.  Raises SCEditError with one sentence.
    """
    configs = _alike(configs, start)
    accelerator = Accelerator(gradient_accumulation_steps=configs[0].loop.accumulate, mixed_precision="no")
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"several configurations: expected one process, found {accelerator.num_processes}; start them one by one"
        )
    for config in configs:
        refuse_early(config)
    told = [console or Console(), *(Console(quiet=True) for _ in configs[1:])]
    with contextlib.ExitStack() as stack:
        folders = [stack.enter_context(open_run(each.run_folder, each.output, True, since)) for each in configs]
        opened = zip(configs, told, strict=True)
        events = [stack.enter_context(contextlib.closing(open_events(*each))) for each in opened]
        runs: list[Run] = []
        with told_of_the_end(events, start, out_of_memory(configs[0])):
            for config, *place in zip(configs, folders, events, strict=True):
                shared = runs[0].base if runs else None
                runs.append(prepare(config, accelerator, *place, allow_download, shared=shared))
            previews = [
                Previews(run.config, run.base, run.data, run.lessons.teacher) if run.config.previews.every else None
                for run in runs
            ]
            for config in configs:
                with contextlib.suppress(OSError):  # no room: the report is then without it
                    write_run_config(config)
            return train_students(runs, previews, start)
    return None


def _alike(configs: Sequence[TrainConfig], start: str) -> list[TrainConfig]:
    """The configurations with one cache, and two checkpoints kept at least: where a run is killed while they are saved,
    all go back to the one before.  Raises ConfigError where they cannot share a run."""
    first = configs[0]
    if start not in ("auto", "never"):
        raise ConfigError(f"--resume: expected auto or never for several configurations, found {start}; leave it out")
    for config in configs:
        name = config.output.name
        if config.teacher is None or config.sweep is not None:
            found = "a sweep" if config.teacher is not None else "none"
            raise ConfigError(
                f"{name}: expected a teacher in each of several configurations, and no sweep, found {found}; train "
                "it by itself"
            )
        if config.phases != first.phases:
            raise ConfigError(
                f"{name}: expected the phases of {first.output.name}, found others; say the same in teacher.residuals "
                "and teacher.predictions"
            )
        ours, theirs = _shared(config), _shared(first)
        other = next((key for key in ours if ours[key] != theirs[key]), None)
        if other is not None:
            raise ConfigError(
                f"{name}: expected what {first.output.name} has in {other}, found {ours[other]} in place of "
                f"{theirs[other]}; make them alike, or train one after the other"
            )
    outputs = {config.output.resolve() for config in configs}
    if len(outputs) < len(configs):
        raise ConfigError(f"output: expected one for each configuration, found {len(outputs)} for {len(configs)}")
    cache = cache_folder(first)
    alike = []
    for config in configs:
        data = config.data.model_copy(update={"cache": cache})
        saving = config.saving.model_copy(update={"keep": max(2, config.saving.keep)})
        alike.append(config.model_copy(update={"data": data, "saving": saving}))
    return alike


def _shared(config: TrainConfig) -> dict[str, Any]:
    """What all of them have to have alike, by key."""
    values = config.values()
    found = {key: value for key, value in values.items() if key not in _OWN and key != "data"}
    return found | {f"data.{key}": value for key, value in values["data"].items() if key not in _OWN_DATA}
