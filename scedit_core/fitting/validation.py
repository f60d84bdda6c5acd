"""Validation: what the tuner and its hint are worth, measured at fixed noise and timesteps.

The loss of training jumps with the timesteps that are drawn; this one is of the same problems every time, and tells
with and without the tuner, and with and without the hint, whether a control is being learnt at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..tuners import CSCTuner, SCTuner
from .base import FrozenBase
from .batches import DataSet
from .chance import generator_for
from .errors import DataError
from .objective import Objective
from .settings import ObjectiveSettings, Settings

_WITH, _WITHOUT, _NO_HINT = "loss_with", "loss_without", "loss_no_hint"


class Validation:
    """Measures the mean squared error on `data.held`, unweighted, at the middles of equal shares of the timesteps.

    Raises DataError where nothing is held.
    """

    def __init__(self, config: Settings, base: FrozenBase, data: DataSet) -> None:
        self._base, self._data, self._seed = base, data, config.loop.seed
        self._examples = list(data.held)[: config.validation.images]
        if not self._examples:  # their mean loss would be 0, which no tuner betters
            raise DataError(
                "validation: expected pictures to measure, found none; set validation.folder, or validation.every to 0"
            )
        self._rows = config.loop.batch  # a batch as large as training's fits into memory
        objective = ObjectiveSettings(zero_terminal_snr=config.objective.zero_terminal_snr)
        self._objective = Objective(base.alphas_cumprod, base.prediction, objective)
        self.timesteps = quantiles(config.validation.timesteps, len(self._objective.alphas_cumprod))
        self._without: dict[int, float] | None = None  # of the base alone, which does not change

    @torch.no_grad()
    def measure(self, tuner: SCTuner | CSCTuner, check: Callable[[], None] | None = None) -> dict[str, Any]:
        """Losses: loss_with and loss_without the tuner, for controls loss_no_hint with it and a black hint, and
        by_timestep, a list of the same for each timestep.  images: how many were measured.  unseen: whether they are
        kept out of training.

        check: called before every batch; may raise to leave.
        """
        control = isinstance(tuner, CSCTuner)
        found = {_WITH: self._losses(tuner, control, check)}
        self._without = self._without or self._losses(None, False, check)
        found[_WITHOUT] = self._without
        if control:
            found[_NO_HINT] = self._losses(tuner, False, check)
        by_timestep = [{"timestep": t, **{name: losses[t] for name, losses in found.items()}} for t in self.timesteps]
        means = {name: sum(losses.values()) / len(losses) for name, losses in found.items()}
        return {**means, "by_timestep": by_timestep, "images": len(self._examples), "unseen": self._data.unseen}

    def _losses(self, tuner: SCTuner | CSCTuner | None, hinted: bool, check: Callable | None) -> dict[int, float]:
        """Mean loss over the examples at each timestep."""
        sums: dict[int, float] = defaultdict(float)
        for index, example in enumerate(self._examples):
            for first in range(0, len(self.timesteps), self._rows):
                if check is not None:
                    check()
                part = self.timesteps[first : first + self._rows]
                for timestep, error in zip(part, self._errors(index, example, part, tuner, hinted), strict=True):
                    sums[timestep] += error / len(self._examples)
        return sums

    def _errors(self, index: int, example, timesteps: list[int], tuner, hinted: bool) -> list[float]:
        """The error of one example at each of `timesteps`, whose noise depends on the example alone."""
        base, device = self._base, self._base.unet_device
        batch = self._data.batch_of([example])
        count = len(timesteps)
        latents = batch.latents.to(device, torch.float32)
        noise = torch.randn(latents.shape, generator=generator_for(self._seed, index, "validation")).to(device)
        problem = self._objective.at(
            latents.expand(count, -1, -1, -1), noise.expand(count, -1, -1, -1), torch.tensor(timesteps)
        )
        same = [0] * count
        sizes = None if batch.sizes is None else batch.sizes[same]
        edits = _attached(tuner, batch.hints, hinted)
        said = base.predict(problem.noisy, problem.timesteps, batch.text.rows(same), sizes, edits)
        error = (said.float() - problem.target).square()
        if batch.masks is None:
            return error.flatten(1).mean(1).tolist()
        masks = batch.masks.to(device).expand_as(error)
        return ((error * masks).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp(min=1e-6)).tolist()


def quantiles(count: int, timesteps: int) -> list[int]:
    """The middles of `count` equal shares of the timesteps 0..timesteps-1."""
    return [int((i + 0.5) * timesteps / count) for i in range(count)]


def _attached(tuner: SCTuner | CSCTuner | None, hints: Tensor | None, hinted: bool) -> list[tuple]:
    if tuner is None:
        return []
    if not isinstance(tuner, CSCTuner):
        return [(tuner, 1.0, None)]
    return [(tuner, 1.0, hints if hinted else torch.zeros_like(hints))]
