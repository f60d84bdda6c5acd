"""The training loop: reads in one sitting, and leaves configuration, data, objective and state to their modules."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_scheduler
from rich.console import Console

from scedit_core import CSCTuner, SCTuner, SkipLayout

from .base_model import BaseModel, load_base
from .config import TrainConfig, TunerConfig
from .data import TrainingSet, epochs, find_examples
from .errors import ConfigError, TrainingError
from .objective import loss_of, pose_problem
from .progress import TrainingProgress
from .state import check_writable, save_trained, tuner_metadata
from .step import TrainingStep


def train(config: TrainConfig, console: Console | None = None) -> Path:
    """Train one tuner as `config` says and return the path of the saved file.

    Raises ConfigError, BaseModelError, DataError, TunerFileError and TrainingError, each with one sentence.
    """
    console = console or Console()
    accelerator = Accelerator(gradient_accumulation_steps=config.loop.accumulate, mixed_precision="no")
    check_writable(config.output)
    examples = find_examples(config.data)
    base = load_base(config.base, frozen_dtype(config.loop.precision, accelerator.device), accelerator.device)
    if accelerator.device.type == "cpu":
        base.unet.set_attn_processor(AttnProcessor())  # on a CPU the backward pass of SDPA takes twice the time
    torch.manual_seed(config.loop.seed)
    tuner = build_tuner(config.tuner, base.layout)
    console.print(_plan(config, base, tuner, len(examples)), highlight=False, soft_wrap=True)
    data = TrainingSet(base, config.data, examples)
    run_steps(config, base, tuner, data, accelerator, console)
    path = config.output
    if accelerator.is_main_process:
        metadata = tuner_metadata(config, base, len(examples), config.loop.steps)
        save_trained(tuner.float(), path, metadata, base)
        console.print(f"saved {path}", highlight=False, soft_wrap=True)
    return path


def run_steps(
    config: TrainConfig,
    base: BaseModel,
    tuner: SCTuner | CSCTuner,
    data: TrainingSet,
    accelerator: Accelerator,
    console: Console,
) -> None:
    """Change `tuner` by `loop.steps` optimiser updates.  Raises TrainingError where the loss is not finite."""
    loop = config.loop
    optimizer = torch.optim.AdamW(tuner.parameters(), lr=loop.learning_rate, weight_decay=loop.weight_decay)
    schedule = get_scheduler(
        "constant_with_warmup" if loop.schedule == "constant" else "cosine",
        optimizer,
        num_warmup_steps=loop.warmup,
        num_training_steps=loop.steps,
    )
    step_module, optimizer = accelerator.prepare(TrainingStep(base.unet, tuner.to(accelerator.device)), optimizer)
    rows_of_steps = epochs(len(data), loop.batch * accelerator.num_processes, loop.seed)
    with TrainingProgress(tuner.kind.upper() + "-Tuner", loop.steps, loop.batch * loop.accumulate, console) as progress:
        for update in range(loop.steps):
            losses = []
            for part in range(loop.accumulate):
                generator = step_generator(loop.seed, update * loop.accumulate + part, accelerator.process_index)
                rows = next(rows_of_steps)[accelerator.process_index :: accelerator.num_processes]
                batch = data.batch(rows, torch.rand(len(rows), generator=generator) < config.objective.caption_dropout)
                problem = pose_problem(base.scheduler, batch.latents.to(accelerator.device), generator)
                hints = None if batch.hints is None else batch.hints.to(accelerator.device)
                with accelerator.accumulate(step_module):
                    states = batch.states.to(accelerator.device)
                    loss = loss_of(step_module(problem.noisy, problem.timesteps, states, hints), problem)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(tuner.parameters(), loop.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                losses.append(loss.item())
            schedule.step()
            mean = sum(losses) / len(losses)
            if mean != mean or mean == float("inf"):
                raise TrainingError(
                    f"step {update}: expected a finite loss, found {mean}; "
                    "lower loop.learning_rate or use precision fp32"
                )
            progress.tick(mean)


def build_tuner(config: TunerConfig, layout: SkipLayout) -> SCTuner | CSCTuner:
    """A fresh tuner for `layout`, in float32.  Raises ConfigError for blocks that the U-Net does not have."""
    if config.blocks is not None and (not config.blocks or max(config.blocks) >= len(layout)):
        raise ConfigError(
            f"tuner.blocks: expected numbers from 0 to {len(layout) - 1} for this base, "
            f"found {config.blocks}; correct them"
        )
    if config.kind == "sc":
        return SCTuner(layout, ratio=config.ratio, blocks=config.blocks)
    return CSCTuner(
        layout,
        ratio=config.ratio,
        blocks=config.blocks,
        kernel=config.kernel,
        hint_ratio=config.hint_ratio or (2 if layout.family == "sdxl" else 1),
        stem_width=config.stem_width,
    )


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The one source of chance of a step; drawn from (seed, step, rank), so there is no state to save."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 65_537 + rank) % 2**63)


def frozen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the frozen base: bfloat16 where the device computes in it, else float32."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = device.type == "cpu" and "avx512_bf16" in _cpu_flags()
    return torch.bfloat16 if fast else torch.float32


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _plan(config: TrainConfig, base: BaseModel, tuner: SCTuner | CSCTuner, images: int) -> str:
    loop = config.loop
    seen = loop.steps * loop.batch * loop.accumulate
    parameters = sum(p.numel() for p in tuner.parameters())
    return (
        f"base {base.name} ({base.layout.title}, {base.prediction}, {str(base.unet.dtype)[6:]}), "
        f"{config.tuner.kind.upper()}-Tuner of {parameters / 1e6:.2f} M parameters on {len(tuner.blocks)} of "
        f"{len(base.layout)} skips\n{images} images at {config.data.resolution} px, {loop.steps} updates of "
        f"{loop.batch * loop.accumulate} images ({seen / max(images, 1):.1f} epochs)"
    )
