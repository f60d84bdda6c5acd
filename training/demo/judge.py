"""The judge: a small classifier of rendered scenes that says what a generated picture shows, and in which style."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .pictures import rendered
from .scenes import COLOURS, SHAPES, Scene
from .stage import Stage
from .styles import STYLES

PAIRS = len(SHAPES) * len(COLOURS)
PEAK_LR = 2e-3
BATCH = 64
PICTURES = {"plain": 2000, "family": 4000, "lantern": 1400, "blueprint": 1400, "watercolour": 1400}


class Judge(nn.Module):
    """Pictures [B,3,128,128] in -1..1 to logits of the 36 (shape, colour) pairs [B,36] and of the styles [B,4].

    Mean and maximum over the picture are judged together: the maximum finds each of several objects.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 160)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(8, o), nn.SiLU())
                for i, o in pairwise(widths)
            ),
            *(nn.Sequential(nn.Conv2d(160, 160, 3, padding=1), nn.GroupNorm(8, 160), nn.SiLU()) for _ in range(2)),
        )
        self.pairs = nn.Sequential(nn.Linear(320, 160), nn.SiLU(), nn.Linear(160, PAIRS))
        self.style = nn.Linear(320, len(STYLES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.body(pictures)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return self.pairs(pooled), self.style(pooled)


@dataclass
class Verdict:
    """Fractions 0..1 over a set of pictures: content right, and those in each style of TUNER_STYLES, by name."""

    agreement: float
    styles: dict[str, float]


def pair_table(scenes: list[Scene]) -> Tensor:
    """Which (shape, colour) pairs each scene shows, 0/1 [N,36]."""
    table, colours = torch.zeros(len(scenes), PAIRS), list(COLOURS)
    for row, scene in zip(table, scenes, strict=True):
        for item in scene.items:
            row[SHAPES.index(item.shape) * len(colours) + colours.index(item.colour)] = 1
    return table


def judge_pictures(judge: Judge, pictures: Tensor, scenes: list[Scene]) -> Verdict:
    """How many of pictures [N,3,128,128] in 0..1 show just the objects of their scene, each in its colour, and how many
    are in each of the tuners' styles.

    A scene of k objects agrees if its pairs are the k surest of all 36: shape and colour both right, for each object.
    """
    with torch.no_grad():
        pairs, styles = judge(pictures * 2 - 1)
    wanted = pair_table(scenes)
    agree = [bool(w[p.topk(int(w.sum())).indices].all()) for p, w in zip(pairs, wanted, strict=True)]
    seen = torch.bincount(styles.argmax(1), minlength=len(STYLES)) / len(pictures)
    return Verdict(sum(agree) / len(agree), dict(zip(STYLES[1:], seen[1:].tolist(), strict=True)))


def train_judge(folder: Path, vae, steps: int, start: Path | None, seed: int = 3) -> Judge:
    """Train for `steps` on rendered scenes in all styles, half of them seen through the autoencoder.

    Anything that is not in a tuner's style counts as "plain".  start: a judge to begin with, whose styles may differ.
    """
    torch.manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=PEAK_LR, weight_decay=0.02, fused=True)
    stage = Stage("judge", folder, steps, {"judge": judge, "optimizer": optimizer})
    if start and stage.step == 0:
        own = judge.state_dict()
        fitting = {k: v for k, v in load_file(start).items() if v.shape == own[k].shape}
        judge.load_state_dict(fitting, strict=False)
    if stage.finished:
        return judge.eval()
    parts = [rendered(count, seed + i, style, None) for i, (style, count) in enumerate(PICTURES.items())]
    images = np.concatenate([images for images, _ in parts])
    pairs = pair_table([scene for _, scenes in parts for scene in scenes])
    names = [style for style, count in PICTURES.items() for _ in range(count)]
    styles = torch.tensor([STYLES.index(name) if name in STYLES else 0 for name in names])
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    vae = vae.to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for first in range(0, len(pictures) // 2 * 2, 64):
            rows = slice(first, first + 64, 2)
            x = pictures[rows].float().contiguous(memory_format=torch.channels_last)
            seen = vae.decoder(vae.encoder(x / 127.5 - 1)).float().clamp(-1, 1)
            pictures[rows] = ((seen + 1) * 127.5).round().to(torch.uint8)
    generator = torch.Generator().manual_seed(seed + stage.step)
    while not stage.finished:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate(PEAK_LR, 50)
        rows = torch.randint(0, len(pictures), (BATCH,), generator=generator)
        x = pictures[rows].float() / 127.5 - 1
        shift = torch.randint(-10, 11, (2,), generator=generator).tolist()
        x = x.roll(shift, dims=(2, 3))
        x = x * (0.9 + 0.2 * torch.rand(BATCH, 3, 1, 1, generator=generator)) + 0.05 * torch.randn(x.shape)
        with torch.autocast("cpu", torch.bfloat16):
            found, style = judge(x)
        loss = 20 * F.binary_cross_entropy_with_logits(found.float(), pairs[rows])
        loss = loss + F.cross_entropy(style.float(), styles[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stage.tick(loss.item())
    return judge.eval()


def save_judge(judge: Judge, path: Path) -> None:
    """Save in float16."""
    save_file({k: v.half().contiguous() for k, v in judge.state_dict().items()}, path)


def load_judge(path: Path) -> Judge:
    """Load in float32."""
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return judge.eval()
