"""The numbers of the demo: what the judge sees in the pictures of held-out prompts, and how well edges are followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scedit_core import CSCTuner, SCTuner
from scedit_core.conditions.canny import canny

from ..bases.base_model import BaseModel
from .judge import Judge, edge_f1, judge_pictures
from .pictures import random_scenes
from .sampling import reconstruct, sample
from .scenes import Scene, draw

SCENES = 72
SEED = 20_000


@dataclass
class Target:
    """A number to reach: `at_least` for floors, else a ceiling."""

    name: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def held_out_scenes(count: int, seed: int = SEED) -> list[Scene]:
    """Scenes whose combination of shape, colour and background is in no training picture."""
    return random_scenes(count, seed, held_out=True)


def drawn(scenes: list[Scene]) -> Tensor:
    """The scenes as drawn in the plain style, [N,3,128,128] in 0..1."""
    return torch.from_numpy(np.stack([draw(s) for s in scenes])).permute(0, 3, 1, 2).float() / 255


def edges_of(pictures: Tensor) -> Tensor:
    """Canny hints [N,3,H,W] of pictures [N,3,H,W], both 0..1."""
    return canny(pictures.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def measure(
    base: BaseModel, judge: Judge, style: SCTuner | None, control: CSCTuner | None, count: int = SCENES
) -> dict[str, float]:
    """Sample `count` held-out prompts with each combination of tuners that is given; fractions 0..1 by name."""
    scenes = held_out_scenes(count)
    prompts, pictures = [s.caption for s in scenes], drawn(scenes)
    hints = edges_of(pictures)
    numbers = {"edge_f1_vae": edge_f1(reconstruct(base, pictures), hints)}
    variants = {"base": [], "sc": [style], "csc": [control], "csc_sc": [control, style]}
    for name, tuners in variants.items():
        if None in tuners:
            continue
        made = sample(base, prompts, SEED, [(t, 1.0) for t in tuners], hints)
        verdict = judge_pictures(judge, made, scenes)
        numbers[f"agreement_{name}"] = verdict.agreement
        numbers[f"lantern_{name}"] = verdict.lantern
        if name in ("base", "csc"):
            numbers[f"edge_f1_{name}"] = edge_f1(made, hints)
    numbers["agreement_drawn"] = judge_pictures(judge, pictures, scenes).agreement
    return numbers


def targets(numbers: dict[str, float]) -> list[Target]:
    """The numbers that the demo promises."""
    return [
        Target("prompt agreement of the base", numbers["agreement_base"], 0.60),
        Target("pictures in the style, with the SC-Tuner", numbers["lantern_sc"], 0.90),
        Target("prompt agreement lost to the style", numbers["agreement_base"] - numbers["agreement_sc"], 0.10, False),
        Target("edge F1 over the autoencoder's own", numbers["edge_f1_csc"] / numbers["edge_f1_vae"], 0.75),
        Target("edge F1 with over without the control", numbers["edge_f1_csc"] / numbers["edge_f1_base"], 1.8),
    ]
