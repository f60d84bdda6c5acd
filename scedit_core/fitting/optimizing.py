"""Optimisers and learning-rate schedules by name, and the running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .errors import ConfigError
from .settings import LoopSettings


def build_optimizer(parameters: Iterable[nn.Parameter], loop: LoopSettings) -> torch.optim.Optimizer:
    """The optimiser that `loop.optimizer` names.  Raises ConfigError where its package is not installed."""
    parameters = list(parameters)
    if loop.optimizer == "adamw":
        fused = all(p.device.type == "cuda" for p in parameters)  # one launch instead of a dozen
        return torch.optim.AdamW(parameters, lr=loop.learning_rate, weight_decay=loop.weight_decay, fused=fused or None)
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
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(loop))


def rate_factor(loop: LoopSettings) -> Callable[[int], float]:
    """What the learning rate is multiplied with after so many updates: up from 0 over the warmup, then as named."""

    def factor(done: int) -> float:
        if done < loop.warmup:
            return done / max(1, loop.warmup)
        if loop.schedule == "constant":
            return 1.0
        if loop.schedule == "linear":
            return max(0.0, (loop.steps - done) / max(1, loop.steps - loop.warmup))
        progress = (done - loop.warmup) / max(1, loop.steps - loop.warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)))

    return factor


class RunningMean:
    """The running mean of parameters, in their own dtype.

    decay: its longest memory; the first updates count for more, min(decay, (1 + n) / (10 + n)) after n of them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.shadow_params = [p.detach().clone() for p in parameters]
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take an update of the parameters into the mean."""
        self.updates += 1
        before = self.updates - 1
        rest = 1 - (0.0 if before <= 0 else min((1 + before) / (10 + before), self.decay))
        torch._foreach_lerp_(self.shadow_params, list(parameters), rest)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes, as earlier checkpoints have it."""
        return {"decay": self.decay, "optimization_step": self.updates, "shadow_params": self.shadow_params}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.  Raises KeyError and ValueError for a state of another mean."""
        shadow = [p.detach().clone() for p in state["shadow_params"]]
        if [p.shape for p in shadow] != [p.shape for p in self.shadow_params]:
            raise ValueError("running mean of other parameters")
        self.decay, self.updates = float(state["decay"]), int(state["optimization_step"])
        self.shadow_params = shadow

    def to(self, device: torch.device) -> None:
        """Move the mean."""
        self.shadow_params = [p.to(device) for p in self.shadow_params]


def build_ema(parameters: Iterable[nn.Parameter], loop: LoopSettings) -> RunningMean | None:
    """The running mean of the parameters, or None where none is asked for."""
    return None if loop.ema is None else RunningMean(parameters, loop.ema)


def _missing(name: str, package: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"loop.optimizer: expected the package {package} for {name}, found none ({' '.join(str(error).split())[:80]}); "
        f"run `python -m pip install {package}` or choose adamw"
    )
