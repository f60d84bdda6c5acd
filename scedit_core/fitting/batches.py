"""What training asks of its data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .base import TextStates
from .chance import generator_for


@dataclass
class Batch:
    """The rows of one process, on the CPU.

    latents: [b,4,h,w], drawn from the posterior.
    text:    of the captions, or of "" where a caption was dropped.
    sizes:   [b,6] as SDXL is told them, else None.
    hints:   [b,3,8h,8w] in 0..1 for controls, black where the condition was dropped, else None.
    masks:   [b,1,h,w] in 0..1 where the set has masks, else None.
    weights: [b], of the rows' loss: 1, that of prior pictures, or 0 for a picture that turned out to be unreadable.
    """

    latents: Tensor
    text: TextStates
    sizes: Tensor | None
    hints: Tensor | None
    masks: Tensor | None
    weights: Tensor


@dataclass
class Draws:
    """What chance decides for the rows of a step: [size] booleans, and posterior noise [size,4,h,w]."""

    mirrored: Tensor
    no_caption: Tensor
    no_hint: Tensor
    noise: Tensor


def draw(
    seed: int, step: int, size: int, latent_shape: Sequence[int], flip: float, no_caption: float, no_hint: float
) -> Draws:
    """What chance decides for the whole batch of a step; the last three are the shares of the rows."""

    def share(purpose: str, wanted: float) -> Tensor:
        return torch.rand(size, generator=generator_for(seed, step, purpose)) < wanted

    return Draws(
        mirrored=share("mirroring", flip),
        no_caption=share("caption dropout", no_caption),
        no_hint=share("condition dropout", no_hint),
        noise=torch.randn(size, *latent_shape, generator=generator_for(seed, step, "posterior")),
    )


def held_out(examples: Sequence[Any], count: int) -> tuple[list[Any], list[Any]]:
    """What is trained on, and `count` of the examples, at most a tenth, that are kept out of it: chosen by their names,
    so that the choice stays when pictures are added."""
    order = sorted(examples, key=lambda e: hashlib.blake2b(os.fsencode(e.name), digest_size=8).digest())
    names = {example.name for example in order[: min(count, len(examples) // 10)]}
    return [e for e in examples if e.name not in names], [e for e in examples if e.name in names]


class DataSet(Protocol):
    """examples: what is trained on; empty for shards, which are not counted.
    held:     examples for validation and previews.
    unseen:   whether those are kept out of training.
    """

    examples: Sequence[Any]
    held: Sequence[Any]
    unseen: bool

    def batch(self, step: int, size: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """Rows part[0]::part[1] of the batch of `size` rows that belongs to `step`, all of one size."""

    def batch_of(self, examples: Sequence[Any]) -> Batch:
        """Examples as they are: nothing dropped, nothing mirrored, latents at their mean."""
