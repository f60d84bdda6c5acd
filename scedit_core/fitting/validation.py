"""Validation: what the tuner and its hint are worth, measured at fixed noise and timesteps.

The loss of training jumps with the timesteps that are drawn; this one is of the same problems every time.  Without the
tuner, and with the hint of another picture, it tells whether a control is learnt at all; on pictures that are trained
on it tells whether a tuner learns them by heart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..tuners import CSCTuner, SCTuner
from .base import FrozenBase
from .batches import DataSet
from .chance import generator_for
from .errors import DataError
from .objective import Objective
from .settings import ObjectiveSettings, Settings

_WITH, _WITHOUT, _OTHER_HINT = "loss_with", "loss_without", "loss_other_hint"


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
        self._trained = _spread(data.examples, len(self._examples)) if data.unseen else []
        self._others = self._partners() if config.tuner.kind == "csc" else []
        self._rows = config.loop.batch  # a batch as large as training's fits into memory
        objective = ObjectiveSettings(zero_terminal_snr=config.objective.zero_terminal_snr)
        self._objective = Objective(base.alphas_cumprod, base.prediction, objective)
        self.timesteps = quantiles(config.validation.timesteps, len(self._objective.alphas_cumprod))
        self._without: Tensor | None = None  # of the base alone, which does not change
        self._trained_without: float | None = None

    @torch.no_grad()
    def measure(self, tuner: SCTuner | CSCTuner, check: Callable[[], None] | None = None) -> dict[str, Any]:
        """Losses as means over pairs of picture and timestep, with the same noise each time.

        loss_with, loss_without: with the tuner, and of the base alone.
        loss_other_hint: of a control, with the hint of another picture; gap, gap_error: how much higher that is than
        loss_with, and the standard error of it.  None for a single picture.
        loss_trained, loss_trained_without: the same on as many pictures that are trained on; only where the others are
        not.
        by_timestep: a list of the same for each timestep.
        images, pairs: how many were measured.  unseen: whether they are kept out of training.

        check: called before every batch; may raise to leave.
        """
        own = [None] * len(self._examples)
        if self._without is None:
            self._without = self._losses(self._examples, None, own, check)
        found = {_WITH: self._losses(self._examples, tuner, own, check), _WITHOUT: self._without}
        told: dict[str, Any] = {}
        if isinstance(tuner, CSCTuner):
            told = {_OTHER_HINT: None, "gap": None, "gap_error": None}
        if self._others:
            found[_OTHER_HINT] = self._losses(self._examples, tuner, self._others, check)
            apart = found[_OTHER_HINT] - found[_WITH]
            told |= {"gap": apart.mean().item(), "gap_error": standard_error(apart)}
        if self._trained:
            own = [None] * len(self._trained)
            if self._trained_without is None:
                self._trained_without = self._losses(self._trained, None, own, check).mean().item()
            told["loss_trained"] = self._losses(self._trained, tuner, own, check).mean().item()
            told["loss_trained_without"] = self._trained_without
        by_timestep = [
            {"timestep": t, **{name: losses[:, i].mean().item() for name, losses in found.items()}}
            for i, t in enumerate(self.timesteps)
        ]
        means = {name: losses.mean().item() for name, losses in found.items()}
        counts = {"images": len(self._examples), "pairs": found[_WITH].numel(), "unseen": self._data.unseen}
        return {**told, **means, "by_timestep": by_timestep, **counts}

    def _partners(self) -> list[Any]:
        """For each example another one, whose hint it gets: where there is one, of the same size.  Empty for a single
        example without any other."""
        by_size = defaultdict(list)
        for example in self._examples:
            by_size[self._data.batch_of([example]).hints.shape].append(example)
        alike = {id(example): group for group in by_size.values() for example in group}
        others = []
        for example in self._examples:
            around = alike[id(example)] if len(alike[id(example)]) > 1 else [*self._examples, *self._data.examples[:2]]
            place = around.index(example)
            following = (each for each in (*around[place + 1 :], *around[:place]) if each != example)
            others.append(next(following, None))
        return [] if None in others else others

    def _losses(
        self,
        examples: Sequence[Any],
        tuner: SCTuner | CSCTuner | None,
        hinted_by: Sequence[Any],
        check: Callable | None,
    ) -> Tensor:
        """[examples, timesteps]; each has its own hint, or that of the example at its place in `hinted_by`."""
        rows = []
        for index, (example, other) in enumerate(zip(examples, hinted_by, strict=True)):
            errors: list[float] = []
            for first in range(0, len(self.timesteps), self._rows):
                if check is not None:
                    check()
                errors += self._errors(index, example, self.timesteps[first : first + self._rows], tuner, other)
            rows.append(errors)
        return torch.tensor(rows, dtype=torch.float64)

    def _errors(self, index: int, example: Any, timesteps: list[int], tuner, other: Any) -> list[float]:
        """The error of one example at each of `timesteps`, whose noise depends on its place alone."""
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
        hints = batch.hints
        if other is not None:
            hints = self._data.batch_of([other]).hints
            if hints.shape != batch.hints.shape:
                hints = interpolate(hints, batch.hints.shape[-2:], mode="nearest-exact")
        edits = [] if tuner is None else [(tuner, 1.0, hints if isinstance(tuner, CSCTuner) else None)]
        said = base.predict(problem.noisy, problem.timesteps, batch.text.rows(same), sizes, edits)
        error = (said.float() - problem.target).square()
        if batch.masks is None:
            return error.flatten(1).mean(1).tolist()
        masks = batch.masks.to(device).expand_as(error)
        return ((error * masks).flatten(1).sum(1) / masks.flatten(1).sum(1).clamp(min=1e-6)).tolist()


def standard_error(pairs: Tensor) -> float | None:
    """Of the mean of [pictures, timesteps] values; None for one value.

    Values of one picture resemble each other, so it is the larger one of what the pairs and the pictures' means give.
    """
    if pairs.numel() < 2:
        return None
    error = pairs.std() / pairs.numel() ** 0.5
    if len(pairs) > 2:  # of two means a deviation says little
        error = torch.maximum(error, pairs.mean(1).std() / len(pairs) ** 0.5)
    return error.item()


def quantiles(count: int, timesteps: int) -> list[int]:
    """The middles of `count` equal shares of the timesteps 0..timesteps-1."""
    return [int((i + 0.5) * timesteps / count) for i in range(count)]


def _spread(examples: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly chosen."""
    count = min(most, len(examples))
    return [examples[i * len(examples) // count] for i in range(count)]
