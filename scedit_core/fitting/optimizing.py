"""Optimisers and learning-rate schedules by name, and the running mean of the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

from .errors import ConfigError
from .settings import LoopSettings

_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine", "linear": "linear"}


def build_optimizer(parameters: Iterable[nn.Parameter], loop: LoopSettings) -> torch.optim.Optimizer:
    """The optimiser that `loop.optimizer` names.  Raises ConfigError where its package is not installed."""
    parameters = list(parameters)
    if loop.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=loop.learning_rate, weight_decay=loop.weight_decay)
    if loop.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except (ImportError, RuntimeError) as error:
            raise _missing("adamw8bit", "bitsandbytes", error) from error
        return AdamW8bit(parameters, lr=loop.learning_rate, weight_decay=loop.weight_decay)
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise _missing("prodigy", "prodigyopt", error) from error
    # Prodigy finds its own rate: `learning_rate` multiplies it, and 1.0 is meant.
    return Prodigy(
        parameters,
        lr=loop.learning_rate,
        weight_decay=loop.weight_decay,
        safeguard_warmup=True,
        use_bias_correction=True,
    )


def build_schedule(optimizer: torch.optim.Optimizer, loop: LoopSettings) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over the optimiser's updates, to be stepped once an update."""
    return get_scheduler(
        _SCHEDULES[loop.schedule], optimizer, num_warmup_steps=loop.warmup, num_training_steps=loop.steps
    )


def build_ema(parameters: Iterable[nn.Parameter], loop: LoopSettings) -> EMAModel | None:
    """The running mean of the parameters, in float32, or None where none is asked for."""
    return None if loop.ema is None else EMAModel(list(parameters), decay=loop.ema)


def _missing(name: str, package: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"loop.optimizer: expected the package {package} for {name}, found none ({' '.join(str(error).split())[:80]}); "
        f"run `python -m pip install {package}` or choose adamw"
    )
