"""The training loop: reads in one sitting, and leaves everything else to the modules that it names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.models.attention_processor import AttnProcessor
from rich.console import Console

from scedit_core import SCEditError, save_tuner
from scedit_core.fitting.rates import rate_remarks

from .bases.loading import load_base
from scedit_core.fitting.checkpoints import checkpoints_in, forget_checkpoints
from .config import TrainConfig
from .data.training_set import TrainingSet
from .errors import TrainingError
from scedit_core.fitting.machine import DTYPES, frozen_dtype
from .memory.preparing import prepare_tuner, prepare_unet
from scedit_core.fitting.new_tuner import new_tuner, trainable
from scedit_core.fitting.objective import Objective, loss_of
from scedit_core.fitting.optimizing import build_ema, build_optimizer, build_schedule
from scedit_core.fitting.run import Run, resume
from scedit_core.fitting.run_folder import RunFolder, Stopped, open_run
from scedit_core.fitting.events import Events, open_events
from .seeing.previews import Previews
from scedit_core.fitting.validation import Validation
from .step import TrainingStep
from scedit_core.fitting.tuner_file import check_writable, save_trained


def train(
    config: TrainConfig,
    console: Console | None = None,
    *,
    start: str = "auto",
    cache_only: bool = False,
    allow_download: bool = False,
) -> Path | None:
    """Train one tuner as `config` says.

    start:      "auto" goes on from the run folder's newest checkpoint where there is one; "never" begins anew,
                "latest" insists on a checkpoint, and a path names one.
    cache_only: fill the caches and stop.

    Returns the path of the saved tuner, or None where the run was stopped (it can be resumed) or only cached.
    Raises SCEditError (ConfigError, BaseModelError, DataError, TunerFileError, TrainingError), each with one sentence.
    """
    accelerator = Accelerator(gradient_accumulation_steps=config.loop.accumulate, mixed_precision="no")
    main = accelerator.is_main_process
    check_writable(config.output)
    with open_run(config.run_folder, main) as folder:
        if main and start == "never":
            forget_checkpoints(folder.checkpoints)
            (folder.path / "events.jsonl").unlink(missing_ok=True)
        with contextlib.closing(open_events(config, console or Console(), main)) as events:
            try:
                run = prepare(config, accelerator, folder, events, allow_download, start)
                return None if cache_only else _train(run)
            except Stopped as stop:
                events.emit("stopped", reason=stop.args[0], resume=start)
                return None
            except torch.OutOfMemoryError as error:
                events.emit("error", message=str(_out_of_memory(config)))
                raise _out_of_memory(config) from error
            except SCEditError as error:
                events.emit("error", message=str(error))
                raise


def prepare(
    config: TrainConfig,
    accelerator: Accelerator,
    folder: RunFolder,
    events: Events,
    allow_download: bool = False,
    start: str = "never",
    prepare_data: Callable[..., TrainingSet] = TrainingSet.prepare,
) -> Run:
    """Load the base, encode the data, build the tuner, and go back to a checkpoint where `start` asks for one."""
    loop, device = config.loop, accelerator.device
    dtype = frozen_dtype(loop.precision, device)
    base = load_base(
        config.base,
        dtype,
        device,
        prediction=config.prediction,
        tokenizer=config.tokenizer,
        vae_dtype=DTYPES[config.memory.vae],
        allow_download=allow_download,
        unet_device="cpu",  # until all is cached and it is stored as small as it will be: a small GPU cannot hold both
    )
    if device.type == "cpu":
        base.unet.set_attn_processor(AttnProcessor())  # on a CPU the backward pass of SDPA takes twice the time
    objective = Objective(base.scheduler, base.prediction, config.objective)
    tuner = new_tuner(config.tuner, base.layout, loop.seed).to(device)

    def say(event: str, **values) -> None:
        events.emit(event, **values)
        folder.check()  # what is cached stays cached, so that this may be left at any point

    wish = None
    try:
        data = prepare_data(base, config, say, (accelerator.process_index, accelerator.num_processes))
    except Stopped as stop:
        wish = stop.args[0]
    wish = _agreed(accelerator, wish)  # which waits for everyone
    if wish:
        raise Stopped(wish)
    base.release_encoders()
    prepare_unet(base.unet, config.memory, dtype)
    base.unet.to(device)
    prepare_tuner(tuner, config.memory)
    optimizer = build_optimizer(trainable(tuner), loop)
    run = Run(
        config=config,
        accelerator=accelerator,
        folder=folder,
        events=events,
        base=base,
        data=data,
        tuner=tuner,
        objective=objective,
        step_module=accelerator.prepare(TrainingStep(base.unet, tuner, dtype)),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, loop),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        ema=build_ema(trainable(tuner), loop),
    )
    run.remarks.take(data.remarks)
    run.remarks.take(rate_remarks(loop))
    resume(run, start)
    return run


def _train(run: Run) -> Path:
    """Update by update to the end, and whatever is due after each."""
    config, events, main = run.config, run.events, run.accelerator.is_main_process
    events.emit("plan", **plan(run))
    events.emit("remarks", remarks=[remark.values() for remark in run.remarks])
    validation = Validation(config, run.base, run.data) if config.validation.every and main else None
    previews = Previews(config, run.base, run.data) if config.previews.every and main else None
    while run.step < config.loop.steps:
        loss, norm = update(run)
        events.emit(
            "step",
            step=run.step,
            steps=config.loop.steps,
            loss=loss,
            grad_norm=norm,
            learning_rate=run.optimizer.param_groups[0]["lr"],
        )
        last = run.step == config.loop.steps
        if validation and (last or run.step % config.validation.every == 0):
            _validate(run, validation)  # before the checkpoint, which holds the best loss so far
        if last or run.step % config.saving.every == 0 or (main and run.folder.save_wish()):
            run.save()  # before previews, which may run out of memory
        if previews and (last or run.step % config.previews.every == 0):
            _preview(run, previews)
        wish = _agreed(run.accelerator, run.folder.stop_wish())
        if wish and not last:
            run.save()
            raise Stopped(wish)
    return _finish(run)


def update(run: Run) -> tuple[float, float]:
    """One optimiser update.  Returns the mean loss and the norm of the gradient before it was clipped.

    Raises TrainingError where either is not finite; the tuner is then as it was before.
    """
    loop, accelerator, device = run.config.loop, run.accelerator, run.accelerator.device
    size = loop.batch * accelerator.num_processes
    losses = []
    for piece in range(loop.accumulate):
        number = run.step * loop.accumulate + piece
        batch = run.data.batch(number, size, run.part)
        problem = run.objective.pose(batch.latents.to(device), loop.seed, number, size, run.part)
        inputs = run.base.unet_inputs(batch.text, batch.sizes)
        hints, masks = (None if x is None else x.to(device) for x in (batch.hints, batch.masks))
        last = piece == loop.accumulate - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(run.step_module):
            prediction = run.step_module(problem.noisy, problem.timesteps, hints, **inputs)
            loss = loss_of(prediction, problem, masks, batch.weights.to(device))
            accelerator.backward(run.scaler.scale(loss))
        losses.append(loss.detach())
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
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.schedule.step()
    if run.ema is not None:
        run.ema.step(trainable(run.tuner))
    run.step += 1
    return mean, norm


def plan(run: Run) -> dict:
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
        "precision": str(frozen_dtype(loop.precision, run.accelerator.device)).removeprefix("torch."),
        "device": str(run.accelerator.device),
        "output": str(config.output),
    }


def _validate(run: Run, validation: Validation) -> None:
    numbers = validation.measure(run.result())
    run.events.emit("validation", step=run.step, **numbers)
    if run.best is None or numbers["loss_with"] < run.best:
        run.best = numbers["loss_with"]
        save_tuner(run.result(), run.folder.best, {**run.metadata(), "scedit.step": str(run.step)})


def _preview(run: Run, previews: Previews) -> None:
    try:
        path = previews.draw(run.step, run.result())
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        run.events.emit("note", message=f"step {run.step}: no memory for previews; set previews.count to less")
        return
    except OSError as error:  # a full disk, or a picture that another program holds open
        run.events.emit("note", message=f"step {run.step}: no previews ({error.strerror or error}); the run goes on")
        return
    run.events.emit("preview", step=run.step, path=str(path))


def _finish(run: Run) -> Path:
    run.save()
    path = run.config.output
    if run.accelerator.is_main_process:
        save_trained(run.result(), path, run.metadata(), run.base)
        run.events.emit("finished", step=run.step, path=str(path))
    run.accelerator.wait_for_everyone()
    return path


def _agreed(accelerator: Accelerator, wish: str | None) -> str | None:
    """The wish of any process, so that all of them stop after the same step."""
    if accelerator.num_processes == 1:
        return wish
    flag = torch.tensor(float(wish is not None), device=accelerator.device)
    return (wish or "another process") if accelerator.reduce(flag, "sum").item() else None


def _way_on(run: Run) -> str:
    """How to go on with other settings: "latest" would refuse them, a path does not."""
    saved = checkpoints_in(run.folder.checkpoints)
    return f"go on with --resume {saved[-1]}" if saved else "start again"


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _out_of_memory(config: TrainConfig) -> TrainingError:
    return TrainingError(
        f"GPU memory: expected room for {config.loop.batch} pictures of {config.data.resolution} px, found too little; "
        "set memory.checkpointing or memory.fp8 to true, or lower loop.batch, and raise loop.accumulate instead"
    )
