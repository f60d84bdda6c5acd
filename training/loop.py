"""The training loop: reads in one sitting, and leaves everything else to the modules that it names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.models.attention_processor import AttnProcessor
from rich.console import Console

from scedit_core.errors import ConfigError, TrainingError
from scedit_core.fitting.budget import Budget
from scedit_core.fitting.distilling import Lessons
from scedit_core.fitting.events import Events, told_of_the_end
from scedit_core.fitting.loop import train_to_end
from scedit_core.fitting.machine import DTYPES, frozen_dtype
from scedit_core.fitting.new_tuner import new_tuner
from scedit_core.fitting.objective import Objective
from scedit_core.fitting.optimizing import changing
from scedit_core.fitting.processes import agreed
from scedit_core.fitting.rates import rate_remarks
from scedit_core.fitting.resuming import resume
from scedit_core.fitting.run import Run
from scedit_core.fitting.run_folder import RunFolder, Stopped, open_run
from scedit_core.fitting.step import TrainingStep
from scedit_core.fitting.sweep import train_sweep, variants

from .bases.base_model import BaseModel
from .bases.loading import load_base
from .bases.teacher import load_teacher
from .config import TrainConfig
from .content import files_of, shards_of
from .data.opening import open_data
from .data.training_set import TrainingSet
from .length import likely_steps, settle_budget, with_epochs_counted
from .memory.compiling import with_compiling_settled
from .memory.preparing import prepare_tuner, prepare_unet
from .refusing import refuse_early
from .seeing.listening import open_events
from .seeing.previews import Previews
from .seeing.run_config import write_run_config


def train(
    config: TrainConfig,
    console: Console | None = None,
    *,
    start: str = "auto",
    cache_only: bool = False,
    allow_download: bool = False,
    since: float | None = None,
) -> Path | None:
    """Train one tuner as `config` says.

    start:      "auto" goes on from the run folder's newest checkpoint where there is one; "never" begins anew and
                puts aside what is there, "latest" insists on a checkpoint, and a path names one.
    cache_only: fill the caches and stop.
    since:      when this was asked for, in seconds since 1970, now by default; wishes to stop count from then on.

    Returns the path of the saved tuner, or None where the run was stopped (it can be resumed) or only cached.
    Raises SCEditError (ConfigError, BaseModelError, DataError, TunerFileError, TrainingError), each with one sentence.
    """
    accelerator = Accelerator(gradient_accumulation_steps=config.loop.accumulate, mixed_precision="no")
    main = accelerator.is_main_process
    refuse_early(config, start)
    if config.sweep is not None and accelerator.num_processes > 1:
        raise ConfigError(f"sweep: expected one process, found {accelerator.num_processes}; start one alone")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(open_run(config.run_folder, config.output, main, since))
        events = stack.enter_context(contextlib.closing(open_events(config, console or Console(), main)))
        with told_of_the_end([events], start, out_of_memory(config)):
            run = prepare(config, accelerator, folder, events, allow_download)
            return None if cache_only else _train(run, start)
    return None


def prepare(
    config: TrainConfig,
    accelerator: Accelerator,
    folder: RunFolder,
    events: Events,
    allow_download: bool = False,
    prepare_data: Callable[..., TrainingSet] = open_data,
    shared: BaseModel | None = None,
) -> Run:
    """Load the base, encode the data, and build the tuner.  A budget of minutes is settled when the run begins.

    shared: the base of a run that has been prepared already.
    """
    device = accelerator.device
    dtype = frozen_dtype(config.loop.precision, device)
    if shared is None:
        base = load_base(
            config.base,
            dtype,
            device,
            prediction=config.prediction,
            tokenizer=config.tokenizer,
            vae_dtype=DTYPES[config.memory.vae],
            text=config.text,
            vae=config.vae,
            allow_download=allow_download,
            unet_device="cpu",  # until all is cached and it is as small as it will be: a small GPU cannot hold both
        )
        if device.type == "cpu":
            base.unet.set_attn_processor(AttnProcessor())  # on a CPU the backward pass of SDPA takes twice the time
    else:
        base = shared
        base.restore_encoders()
    objective = Objective(base.alphas_cumprod, base.prediction, config.objective)
    tuner = new_tuner(config.tuner, base.layout, config.loop.seed).to(device)

    def say(event: str, **values) -> None:
        events.emit(event, **values)
        folder.check()  # what is cached stays cached, so that this may be left at any point

    wish = None
    try:
        folder.check()
        data = prepare_data(base, config, say, (accelerator.process_index, accelerator.num_processes))
    except Stopped as stop:
        wish = stop.args[0]
    wish = agreed(accelerator, wish)  # which waits for everyone
    if wish:
        raise Stopped(wish)
    config = with_epochs_counted(config, data.round_rows, accelerator.num_processes)
    loop = config.loop
    memory = with_compiling_settled(config.memory, device, likely_steps(loop))
    fingerprint = base.fingerprint  # of the weights as they are, before they are stored in 8 bits
    base.release_encoders()
    if shared is None:
        prepare_unet(base.unet, memory, dtype)
        base.unet.to(device)
    prepare_tuner(tuner, memory)
    lessons = None
    if config.teacher is not None:
        told = config.teacher
        teacher = load_teacher(told.controlnet, base, dtype, told.kind, told.strength)
        phases = config.phases
        if data.examples and not any(example.caption for example in data.examples):  # where they are optional
            phases = replace(phases, captioned=False)
        lessons = Lessons(base, teacher, phases, loop.steps)
    run = Run(
        config=config,
        accelerator=accelerator,
        folder=folder,
        events=events,
        base=base,
        data=data,
        objective=objective,
        step_module=accelerator.prepare(TrainingStep(base, tuner)),
        **changing(tuner, loop, dtype == torch.float16),
        lessons=lessons,
        files=files_of(config, fingerprint, lessons and lessons.teacher.digest),
        shards=shards_of(config),
        budget=None if loop.minutes is None else Budget(loop.minutes),
    )
    run.remarks.take(data.remarks)
    if run.budget is None:
        run.remarks.take(rate_remarks(loop))
    if lessons is not None and lessons.residuals + lessons.predictions > loop.steps:
        run.remarks.add(
            f"teacher.residuals and teacher.predictions are {lessons.residuals} and {lessons.predictions} in a run of "
            f"{loop.steps} steps, which ends before they do",
            "lower them, or raise loop.steps",
        )
    if config.sweep is not None and config.previews.every and config.previews.model_fields_set:
        run.remarks.add("no previews are drawn in a sweep", "draw with its tuners in ComfyUI")
    return run


def _train(run: Run, start: str) -> Path:
    config, main = run.config, run.accelerator.is_main_process
    if config.sweep is not None:
        members = variants(config, config.sweep.values())
        return train_sweep(
            run, members, start, lambda tuner: prepare_tuner(tuner, config.memory), lambda: _tell_config(config)
        )
    drawn = config.previews.every and main
    teacher = run.lessons and run.lessons.teacher
    previews = Previews(config, run.base, run.data, teacher) if drawn else None
    wish = agreed(run.accelerator, run.folder.stop_wish())
    if wish:
        raise Stopped(wish)
    resume(run, start)  # when nothing is left that may be refused: an earlier run is put aside
    settle_budget(run)
    if main:
        _tell_config(run.config)
    return train_to_end(run, previews)


def _tell_config(config: TrainConfig) -> None:
    with contextlib.suppress(OSError):  # no room: the report is then without it
        write_run_config(config)


def out_of_memory(config: TrainConfig) -> TrainingError:
    """The sentence for a GPU that is too small."""
    return TrainingError(
        f"GPU memory: expected room for {config.loop.batch} pictures of {config.data.resolution} px, found too little; "
        "set memory.checkpointing or memory.fp8 to true, or lower loop.batch, and raise loop.accumulate instead"
    )
