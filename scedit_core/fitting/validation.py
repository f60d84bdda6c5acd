"""Validation: what the tuner and its hint are worth, measured at fixed noise and timesteps.

The loss of training jumps with the timesteps that are drawn; this one is of the same problems every time.  Without the
tuner, and with the hint of another picture, it tells whether a control is learnt at all; on pictures that are trained
on it tells whether a tuner learns them by heart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import DataError
from ..tuners import CSCTuner, SCTuner
from .base import FrozenBase
from .batches import Batch, DataSet
from .chance import generator_for
from .distilling import Teacher, residual_errors
from .following import unlike_hints
from .objective import Objective, Problem
from .settings import ObjectiveSettings, Settings

_WITH, _WITHOUT, _OTHER_HINT, _TEACHER = "loss_with", "loss_without", "loss_other_hint", "loss_teacher"


class Validation:
    """Measures the mean squared error on `data.held`, unweighted, at the middles of equal shares of the timesteps.

    teacher: the ControlNet that a control learns from, to be measured beside it.

    Raises DataError where nothing is held.
    """

    def __init__(self, config: Settings, base: FrozenBase, data: DataSet, teacher: Teacher | None = None) -> None:
        self._base, self._data, self._seed, self._teacher = base, data, config.loop.seed, teacher
        self._examples = list(data.held)[: config.validation.images]
        if not self._examples:  # their mean loss would be 0, which no tuner betters
            raise DataError(
                "validation: expected pictures to measure, found none; set validation.folder, or validation.every to 0"
            )
        self._trained = _spread(data.examples, len(self._examples)) if data.unseen else []
        self._others = self._partners() if config.tuner.kind == "csc" else []
        objective = ObjectiveSettings(zero_terminal_snr=config.objective.zero_terminal_snr)
        self._objective = Objective(base.alphas_cumprod, base.prediction, objective)
        self.timesteps = quantiles(config.validation.timesteps, len(self._objective.alphas_cumprod))
        rows = config.loop.batch  # a batch as large as training's fits into memory
        self._parts = [self.timesteps[first : first + rows] for first in range(0, len(self.timesteps), rows)]

    @torch.no_grad()
    def measure(self, tuner: SCTuner | CSCTuner) -> dict[str, Any]:
        """Losses as means over pairs of picture and timestep, with the same noise each time.

        loss_with, loss_without: with the tuner, and of the base alone.
        loss_other_hint: of a control, with the hint of another picture; gap, gap_error: how much higher that is than
        loss_with, and the standard error of it.  None for a single picture.
        loss_trained, loss_trained_without: the same on as many pictures that are trained on; only where the others are
        not.
        loss_teacher: with the teacher in the tuner's place.  agreement: how much of the teacher's residuals the tuner
        adds: 1 less its squared error as a share of theirs, so 0 for a tuner that adds nothing.
        by_timestep: a list of the same for each timestep.
        images, pairs: how many were measured.  unseen: whether they are kept out of training.
        """
        found = {_WITH: self._losses(self._examples, tuner), _WITHOUT: self._without}
        told: dict[str, Any] = {}
        if isinstance(tuner, CSCTuner):
            told = {_OTHER_HINT: None, "gap": None, "gap_error": None}
        if self._others:
            found[_OTHER_HINT] = self._losses(self._examples, tuner, self._others)
            apart = found[_OTHER_HINT] - found[_WITH]
            told |= {"gap": apart.mean().item(), "gap_error": standard_error(apart)}
        if self._trained:
            told["loss_trained"] = self._losses(self._trained, tuner).mean().item()
            told["loss_trained_without"] = self._trained_without
        if self._teacher is not None:
            found[_TEACHER] = self._taught
            told["agreement"] = 1 - self._residual_error(tuner)
        by_timestep = [
            {"timestep": t, **{name: losses[:, i].mean().item() for name, losses in found.items()}}
            for i, t in enumerate(self.timesteps)
        ]
        means = {name: losses.mean().item() for name, losses in found.items()}
        counts = {"images": len(self._examples), "pairs": found[_WITH].numel(), "unseen": self._data.unseen}
        return {**told, **means, "by_timestep": by_timestep, **counts}

    @torch.no_grad()
    def unlike_hints(self) -> str | None:
        """A sentence where the teacher does not follow the hints of these pictures, else None (following.py)."""
        if self._teacher is None or not self._others:
            return None
        apart = self._losses(self._examples, self._teacher, self._others) - self._taught
        told = {"teacher_gap": apart.mean().item(), "teacher_gap_error": standard_error(apart)}
        return unlike_hints({_WITHOUT: self._without.mean().item(), **told})

    # The base alone and the teacher do not change from one measurement to the next.
    @cached_property
    def _without(self) -> Tensor:
        return self._losses(self._examples, None)

    @cached_property
    def _trained_without(self) -> float:
        return self._losses(self._trained, None).mean().item()

    @cached_property
    def _taught(self) -> Tensor:
        return self._losses(self._examples, self._teacher)

    def _residual_error(self, tuner: CSCTuner) -> float:
        """The mean of `residual_errors` over the same pairs."""
        errors = []
        for index, example in enumerate(self._examples):
            for timesteps in self._parts:
                batch, problem, inputs = self._posed(index, example, timesteps)
                hints = batch.hints.expand(len(problem.noisy), -1, -1, -1)
                wanted = self._teacher.residuals(*inputs[:2], hints, *inputs[2:]).skips
                masks = None if batch.masks is None else batch.masks.to(self._base.unet_device)
                errors.append(residual_errors(tuner, self._base.skips(*inputs), batch.hints, wanted, masks))
        return torch.cat(errors).mean().item()

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
        self, examples: Sequence[Any], tuner: SCTuner | CSCTuner | Teacher | None, hinted_by: Sequence[Any] = ()
    ) -> Tensor:
        """[examples, timesteps], with a tuner or the teacher.  hinted_by: whose hint each gets, by default its own."""
        pairs = enumerate(zip_longest(examples, hinted_by))
        rows = [
            [error for part in self._parts for error in self._errors(index, example, part, tuner, other)]
            for index, (example, other) in pairs
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def _posed(self, index: int, example: Any, timesteps: list[int]) -> tuple[Batch, Problem, tuple]:
        """One example at each of `timesteps` with noise that depends on its place alone, and what the base is asked."""
        device, count = self._base.unet_device, len(timesteps)
        batch = self._data.batch_of([example])
        latents = batch.latents.to(device, torch.float32)
        noise = torch.randn(latents.shape, generator=generator_for(self._seed, index, "validation")).to(device)
        problem = self._objective.at(
            latents.expand(count, -1, -1, -1), noise.expand(count, -1, -1, -1), torch.tensor(timesteps)
        )
        same = [0] * count
        sizes = None if batch.sizes is None else batch.sizes[same]
        return batch, problem, (problem.noisy, problem.timesteps, batch.text.rows(same), sizes)

    def _errors(self, index: int, example: Any, timesteps: list[int], tuner, other: Any) -> list[float]:
        """The error of one example at each of `timesteps`."""
        batch, problem, inputs = self._posed(index, example, timesteps)
        hints = batch.hints
        if other is not None:
            hints = self._data.batch_of([other]).hints
            if hints.shape != batch.hints.shape:
                hints = interpolate(hints, batch.hints.shape[-2:], mode="nearest-exact")
        edits, added = [], None
        if tuner is not None and tuner is self._teacher:
            added = tuner.residuals(*inputs[:2], hints.expand(len(problem.noisy), -1, -1, -1), *inputs[2:])
        elif tuner is not None:
            edits = [(tuner, 1.0, hints if isinstance(tuner, CSCTuner) else None)]
        said = self._base.predict(*inputs, edits, added)
        error = (said.float() - problem.target).square()
        if batch.masks is None:
            return error.flatten(1).mean(1).tolist()
        masks = batch.masks.to(self._base.unet_device).expand_as(error)
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
