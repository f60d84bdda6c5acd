"""A ControlNet as the teacher of a CSC-Tuner.

A ControlNet adds residuals to the very skips that a CSC-Tuner edits (Zhang et al. 2023, arXiv 2302.05543; SCEdit paper,
section 3.3), so a student can be fitted to them directly.  A run has three phases, in this order:

residuals:   the student fits what the teacher adds to each skip; neither the decoder nor a caption is needed, and
             nothing of the base is kept for the backward pass.
predictions: the student fits what the base says under the teacher.
pictures:    the student fits the pictures themselves, as any control does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SCEditError
from ..tuners import CSCTuner
from .base import Added, FrozenBase, TextStates
from .batches import Batch
from .machine import moved
from .objective import Problem, loss_of

RESIDUALS, PREDICTIONS, PICTURES = PHASES = ("residuals", "predictions", "pictures")
_SMALLEST = 1e-8  # of a mean square; a teacher that adds nothing to a skip asks for nothing there


class Teacher(Protocol):
    """name:       for people.
    digest:     changes with any of its weights.
    parameters: how many weights it has.
    """

    name: str

    @property
    def digest(self) -> str: ...
    @property
    def parameters(self) -> int: ...

    def residuals(
        self, noisy: Tensor, timesteps: Tensor, hints: Tensor, text: TextStates, sizes: Tensor | None
    ) -> Added:
        """What it adds to each skip and to the middle block's output; arguments as `FrozenBase.predict` takes them."""


@dataclass(frozen=True)
class Phases:
    """Updates of the phases `residuals` and `predictions`, None where nothing is said; pictures follow.

    captioned: whether the pictures have captions; without them they would teach what their captions leave unsaid.
    """

    residuals: int | None = None
    predictions: int | None = None
    captioned: bool = True

    def of(self, steps: int) -> tuple[int, int]:
        """Both numbers, of a run of `steps`.

        Where nothing is said: a quarter of residuals with captions; without them half, and predictions to the end.
        """
        residuals, predictions = self.residuals, self.predictions
        if residuals is None and predictions is None:
            residuals = steps // 4 if self.captioned else steps // 2
        elif residuals is None:
            residuals = 0 if self.captioned else max(steps - predictions, 0)
        if predictions is None:
            predictions = 0 if self.captioned else max(steps - residuals, 0)
        return residuals, predictions


class Lessons:
    """What a run's updates ask for while it has a teacher.

    steps:                  of the run.
    residuals, predictions: updates of these phases; pictures follow.
    """

    def __init__(self, base: FrozenBase, teacher: Teacher, phases: Phases, steps: int) -> None:
        self.base, self.teacher = base, teacher
        self.residuals, self.predictions = phases.of(steps)
        self._phases, self._steps = phases, steps
        self._digest = teacher.digest

    def keep(self, before: Mapping[str, Any]) -> None:
        """Go on with the phases of a checkpoint where nothing is said of them, however many steps there are now.

        before: what `planned` gave.
        """
        if self._phases.residuals is None and before.get("residuals") is not None:
            captioned = self._phases.captioned or (self._phases.predictions is None and before.get("predictions") == 0)
            phases = replace(self._phases, residuals=before["residuals"], captioned=captioned)
            self.residuals, self.predictions = phases.of(self._steps)

    @property
    def planned(self) -> dict[str, int]:
        """The updates of each phase but the last, by name."""
        return {RESIDUALS: self.residuals, PREDICTIONS: self.predictions}

    @property
    def unsaid(self) -> set[str]:
        """The phases of which nothing is said: their numbers make no run another one."""
        return {name for name in self.planned if getattr(self._phases, name) is None}

    def phase(self, step: int) -> str:
        """The phase of the update that follows `step` done ones."""
        if step < self.residuals:
            return RESIDUALS
        return PREDICTIONS if step < self.residuals + self.predictions else PICTURES

    def loss(
        self, step_module: Any, step: int, problem: Problem, hints: Tensor, masks: Tensor | None, batch: Batch
    ) -> Tensor:
        """The loss of one batch in the update that follows `step` done ones; arguments as the loop has them."""
        phase, weights = self.phase(step), moved(batch.weights, problem.noisy.device)
        inputs = (problem.noisy, problem.timesteps, hints, batch.text, batch.sizes)
        if phase == PICTURES:
            return loss_of(step_module(*inputs), problem, masks, weights)
        with torch.no_grad():
            wanted = self.teacher.residuals(*inputs)
        if phase == RESIDUALS:
            self.base.rest_decoder()
            errors = step_module(*inputs, wanted=wanted.skips, masks=masks)
            return (errors * problem.weights * weights).mean()
        with torch.no_grad():
            target = self.base.predict(problem.noisy, problem.timesteps, batch.text, batch.sizes, added=wanted)
        return loss_of(step_module(*inputs), replace(problem, target=target.float()), masks, weights)

    def plan(self, steps: int) -> dict[str, Any]:
        """The teacher's name, and the updates of each phase of a run of `steps`."""
        residuals = min(self.residuals, steps)
        predictions = min(self.predictions, steps - residuals)
        updates = residuals, predictions, steps - residuals - predictions
        return {"name": self.teacher.name, **dict(zip(PHASES, updates, strict=True))}

    def metadata(self) -> dict[str, str]:
        """What the tuner's file says of its teacher."""
        told = {"name": self.teacher.name, "digest": self._digest, **self.planned}
        return {"scedit.teacher": json.dumps(told, sort_keys=True)}


def residual_errors(
    tuner: CSCTuner,
    skips: Sequence[Tensor],
    hints: Tensor,
    wanted: Sequence[Tensor | None],
    masks: Tensor | None = None,
) -> Tensor:
    """How far the student's residuals are from the teacher's, as a share of these: [B], the mean over tuned blocks.

    The share is of the batch's mean, so that noise levels at which the teacher adds more count more: against shares of
    each row, edge F1 on the model in demo/ is half a point higher after 250 updates.

    skips, wanted: [B,C,h,w] in block order, without a graph; hints [B,3,8h,8w] in 0..1; masks [B,1,h,w] or None.

    Raises SCEditError where the teacher adds to none of the tuned blocks.
    """
    features = tuner.encode_hint(hints.to(skips[0].device, skips[0].dtype, memory_format=torch.channels_last))
    shares = []
    for b in tuner.blocks:
        if wanted[b] is None:
            continue
        target = wanted[b].float()
        error = (tuner.scale * tuner.residual(b, skips[b], features[b]).float() - target).square().mean(1)
        square = target.square().mean(1)
        if masks is not None:
            shown = F.interpolate(masks.to(error), error.shape[-2:], mode="area")[:, 0]
            error, square = error * shown, square * shown
        shares.append(error.flatten(1).mean(1) / square.mean().clamp(min=_SMALLEST))
    if not shares:
        raise SCEditError(
            f"teacher: expected a ControlNet that adds to one of the tuner's blocks {list(tuner.blocks)}, found one "
            "that adds to others alone; tune all blocks, or leave the phase of residuals out"
        )
    return torch.stack(shares).mean(0)
