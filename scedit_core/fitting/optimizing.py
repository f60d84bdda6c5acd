"""A run's optimiser with its learning rates, their schedule, and the running mean of the weights."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..tuners import CSCTuner, SCTuner
from .optimizers import KINDS, build, try_update
from .settings import LoopSettings

_FUSED = ("adamw", "adam", "sgd")
_HINT = "hint"  # in place of a block: the hint encoder of a control


def build_optimizer(parameters: Iterable[nn.Parameter | dict], loop: LoopSettings) -> torch.optim.Optimizer:
    """The optimiser that `loop.optimizer` names, for parameters or groups as `grouped` gives them.

    Raises ConfigError where its package is not installed, and for arguments that it does not take.
    """
    groups = [each if isinstance(each, dict) else {"params": [each]} for each in parameters]
    plain = [p for group in groups for p in group["params"]]
    arguments = dict(loop.optimizer_arguments)
    if loop.optimizer in _FUSED and all(p.device.type == "cuda" for p in plain):
        arguments.setdefault("fused", True)  # one launch instead of a dozen
    if all("factor" not in group for group in groups):
        groups = plain
    made = build(loop.optimizer, groups, loop.learning_rate, loop.weight_decay, arguments)
    for group in made.param_groups:
        group["lr"] = loop.learning_rate * group.get("factor", 1.0)
    return made


def check_optimizer(loop: LoopSettings) -> None:
    """Raise ConfigError, before anything is loaded, where an optimiser cannot be had or not with these settings."""
    kind = KINDS[loop.optimizer]
    if kind.own_mean and loop.ema is not None:
        raise ConfigError(
            f"loop.ema: expected none with {loop.optimizer}, which delivers a running mean of its own, found "
            f"{loop.ema:g}; leave it out"
        )
    if kind.own_mean and loop.schedule != "constant":
        raise ConfigError(
            f"loop.schedule: expected constant with {loop.optimizer}, whose running mean takes the place of a "
            f"schedule, found {loop.schedule}; leave it out"
        )
    if loop.schedule == "constant" and loop.restarts:
        raise ConfigError(
            f"loop.restarts: expected 0 with the schedule constant, which has nothing to begin anew, found "
            f"{loop.restarts}; set schedule to cosine or linear"
        )
    factors = {factor for factor in loop.block_rates.values() if factor}
    if loop.optimizer == "prodigy" and factors - {1.0}:
        raise ConfigError(
            f"loop.block_rates: expected 0 or 1 with prodigy, which finds one rate for all, found "
            f"{max(factors - {1.0}):g}; choose another optimizer"
        )
    for key in loop.block_rates:
        _blocks_named(key)
    made = build_optimizer([nn.Parameter(torch.zeros(2, 2))], loop)
    try_update(loop.optimizer, made, loop.optimizer_arguments)


def grouped(tuner: SCTuner | CSCTuner, loop: LoopSettings) -> list[nn.Parameter] | list[dict]:
    """The parameters that a run changes, in groups with a `factor` of the learning rate where blocks have rates of
    their own; what has a factor of 0 is frozen.

    Raises ConfigError for blocks that the tuner does not have.
    """
    if not loop.block_rates:
        return [p for p in tuner.parameters() if p.requires_grad]
    factors: dict[str, float] = {}
    for key, factor in loop.block_rates.items():
        names = _blocks_named(key)
        here = {str(b) for b in tuner.blocks} | ({_HINT} if isinstance(tuner, CSCTuner) else set())
        missing = [name for name in names if name not in here]
        if missing:
            blocks = ", ".join(sorted(here, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0)))
            raise ConfigError(
                f"loop.block_rates: expected blocks that are trained ({blocks}), found {missing[0]}; correct it"
            )
        factors |= dict.fromkeys(names, float(factor))
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in tuner.named_parameters():
        part = _HINT if name.startswith("hint.") else name.split(".")[1]
        factor = factors.get(part, 1.0)
        parameter.requires_grad_(parameter.requires_grad and factor > 0)
        if parameter.requires_grad:
            groups.setdefault(factor, []).append(parameter)
    found = [{"params": each, "factor": factor} for factor, each in groups.items() if each]
    if not found:
        raise ConfigError("loop.block_rates: expected a rate above 0 for one block at least, found none; raise one")
    return found


def _blocks_named(key: int | str) -> list[str]:
    """The blocks that a key of `block_rates` names: a number, a range such as 0-3, or the hint encoder."""
    match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", str(key))
    if str(key) == _HINT:
        return [_HINT]
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise ConfigError(
            f"loop.block_rates: expected numbers of blocks such as 3, ranges such as 0-3, or hint, found {key}; "
            "correct it"
        )
    return [str(b) for b in range(int(match[1]), int(match[2] or match[1]) + 1)]


@contextlib.contextmanager
def own_mean(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """While open, the parameters are the running mean that a schedule-free optimiser keeps (Defazio et al. 2024, arXiv
    2405.15682), where it is one; afterwards they are what they were, bit for bit."""
    parameters = list(parameters)
    before = [p.detach().clone() for p in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            torch._foreach_copy_(parameters, before)


def build_schedule(optimizer: torch.optim.Optimizer, loop: LoopSettings) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate over the optimiser's updates, to be stepped once an update."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(loop))


def rate_factor(loop: LoopSettings) -> Callable[[int], float]:
    """What the learning rate is multiplied with after so many updates: up from 0 over the warmup, then as named, and
    from its beginning again as often as `loop.restarts` says."""

    def factor(done: int) -> float:
        if done < loop.warmup:
            return done / max(1, loop.warmup)
        if loop.schedule == "constant":
            return 1.0
        part = (loop.restarts + 1) * (done - loop.warmup) / max(1, loop.steps - loop.warmup)
        progress = part % 1.0 if part < loop.restarts + 1 else 1.0
        return 1.0 - progress if loop.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))

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


def changing(tuner: SCTuner | CSCTuner, loop: LoopSettings, half: bool) -> dict[str, Any]:
    """The tuner and what changes it, by the names that `Run` has for them.  half: whether the base computes in fp16."""
    optimizer = build_optimizer(grouped(tuner, loop), loop)
    return {
        "tuner": tuner,
        "optimizer": optimizer,
        "schedule": build_schedule(optimizer, loop),
        "scaler": torch.amp.GradScaler(next(tuner.parameters()).device.type, enabled=half),
        "ema": build_ema((p for p in tuner.parameters() if p.requires_grad), loop),
    }
