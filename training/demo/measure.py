"""The numbers of the demo: what the judge sees in the pictures of held-out prompts, and how well edges are followed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scedit_core import CSCTuner, SCTuner
from scedit_core.conditions.canny import canny
from scedit_core.fitting.following import edge_f1

from ..bases.base_model import BaseModel
from .judge import Judge, judge_pictures
from .painting import draw
from .pictures import random_scenes, rendered
from .sampling import reconstruct, sample
from .scenes import Scene, objects_alone
from .styles import PLAIN, STYLES, TUNER_STYLES, UNLINED, Style

SCENES = 72
SEED = 20_000
RECONSTRUCTED = (*STYLES, "family without grain")  # grain, which nothing can keep, is measured apart


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


def drawn(scenes: list[Scene], style: Style | str = PLAIN) -> Tensor:
    """The scenes as drawn in a style, [N,3,128,128] in 0..1."""
    return _pictures(np.stack([draw(s, style) for s in scenes]))


def _pictures(images: np.ndarray) -> Tensor:
    """uint8 images [N,H,W,3] as [N,3,H,W] in 0..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def plainly_drawn(scenes: list[Scene], style: str) -> Tensor:
    """Pictures whose edges fit one of TUNER_STYLES: plain, without outlines where it has none, since an outline has two
    edges, which ask for a line.
    """
    return drawn(scenes, PLAIN if TUNER_STYLES[style].line else UNLINED)


def edges_of(pictures: Tensor) -> Tensor:
    """Canny hints [N,3,H,W] of pictures [N,3,H,W], both 0..1."""
    return canny(pictures.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def measure(
    base: BaseModel, judge: Judge, styles: Mapping[str, SCTuner], control: CSCTuner, count: int = SCENES
) -> dict[str, float]:
    """Sample `count` held-out prompts with each tuner and with both at once; fractions 0..1 by name.

    styles: tuners by the name of their style.  Names end in "base", "csc", "sc_STYLE" and "csc_sc_STYLE"; for
    "objects", the prompts name objects alone, no place and no background.  "psnr_" are dB, of drawings of each style
    through the autoencoder and back; "edge_f1_vae_" is of drawings that are made as the hints are, and
    "edge_f1_styled_" of drawings in the style: a picture in the style hardly follows the hints better.
    """
    scenes = held_out_scenes(count)
    prompts, pictures = [s.caption for s in scenes], drawn(scenes)
    hints = edges_of(pictures)
    numbers = {
        "edge_f1_vae": edge_f1(reconstruct(base, pictures), hints),
        "agreement_drawn": judge_pictures(judge, pictures, scenes).agreement,
    }
    for style in (*RECONSTRUCTED, "grainy"):
        pictures = _pictures(rendered(2 * count, SEED, style, held_out=True)[0])
        numbers[f"psnr_{style}"] = -10 * math.log10(F.mse_loss(reconstruct(base, pictures), pictures))
    alone = [objects_alone(p) for p in prompts]
    for name, tuners in {"base": [], "csc": [(control, 1.0)]}.items():
        made = sample(base, prompts, SEED, tuners, hints)
        numbers[f"agreement_{name}"] = judge_pictures(judge, made, scenes).agreement
        numbers[f"edge_f1_{name}"] = edge_f1(made, hints)
        numbers[f"edge_f1_objects_{name}"] = edge_f1(sample(base, alone, SEED, tuners, hints), hints)
    for style, tuner in styles.items():
        pictures = plainly_drawn(scenes, style)
        hints = edges_of(pictures)
        numbers[f"edge_f1_vae_{style}"] = edge_f1(reconstruct(base, pictures), hints)
        numbers[f"edge_f1_styled_{style}"] = edge_f1(reconstruct(base, drawn(scenes, style)), hints)
        for name, tuners in {"sc": [(tuner, 1.0)], "csc_sc": [(control, 1.0), (tuner, 1.0)]}.items():
            made = sample(base, prompts, SEED, tuners, hints)
            verdict = judge_pictures(judge, made, scenes)
            numbers[f"style_{name}_{style}"] = verdict.styles[style]
            numbers[f"agreement_{name}_{style}"] = verdict.agreement
            numbers[f"edge_f1_{name}_{style}"] = edge_f1(made, hints)
    return numbers


def targets(numbers: dict[str, float]) -> list[Target]:
    """The numbers that the demo promises; those of styles are means over the styles that were measured."""

    def over_styles(start: str) -> float:
        return mean(v for k, v in numbers.items() if k.startswith(start))

    return [
        Target("reconstruction of all ways of drawing, dB", mean(numbers[f"psnr_{s}"] for s in RECONSTRUCTED), 30),
        Target("prompt agreement of the base", numbers["agreement_base"], 0.90),
        Target("pictures in the style, with the SC-Tuner", over_styles("style_sc_"), 0.97),
        Target("agreement lost to the style", numbers["agreement_base"] - over_styles("agreement_sc_"), 0.03, False),
        Target("edge F1 over the autoencoder's own", numbers["edge_f1_csc"] / numbers["edge_f1_vae"], 0.95),
        Target(
            "edge F1 with over without the control, prompts naming objects alone",
            numbers["edge_f1_objects_csc"] / numbers["edge_f1_objects_base"],
            2.0,
        ),
        Target("pictures in the style, with both tuners", over_styles("style_csc_sc_"), 0.90),
        Target(
            "edge F1 with both tuners, over the autoencoder's own in these styles",
            over_styles("edge_f1_csc_sc_") / over_styles("edge_f1_styled_"),
            0.85,
        ),
    ]
