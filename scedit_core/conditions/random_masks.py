"""Masks for training tuners that complete pictures: holes and outer parts, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .completion import inpainting
from .opencv import opencv
from .pictures import as_pictures
from .ranges import check_range

_MOST_PIECES = 64  # of a hole; each is a stroke or a rectangle


@dataclass(frozen=True)
class CompletionOptions:
    """What is missing from training pictures.

    outer:             the share of pictures of which a rectangle inside is kept (outpainting); others get holes.
    smallest, largest: the share of a picture that is to be missing, drawn evenly in between.  Holes may take a little
                       more.

    Raises ConditionError for shares outside 0..1.
    """

    outer: float = 0.3
    smallest: float = 0.1
    largest: float = 0.6

    def __post_init__(self) -> None:
        check_range("completion outer", self.outer, 0, 1)
        check_range("completion largest", self.largest, 0, 1)
        check_range("completion smallest", self.smallest, 0, self.largest)


def random_masks(
    count: int,
    height: int,
    width: int,
    options: CompletionOptions | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Masks [count,height,width], 1 where something is missing, else 0.

    generator: on the CPU; the same state gives the same masks.
    """
    options = options or CompletionOptions()

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    masks = []
    for _ in range(count):
        outer, share = draw(2).tolist()
        share = options.smallest + share * (options.largest - options.smallest)
        masks.append((_outside if outer < options.outer else _holes)(height, width, share, draw))
    return torch.from_numpy(np.stack(masks)).float() if masks else torch.zeros(0, height, width)


def random_completion(
    images: Tensor, options: CompletionOptions | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Images [B,H,W,C] in 0..1 with random parts black: float [B,H,W,3], on the images' device.

    Raises ConditionError for images that `as_pictures` refuses.
    """
    pictures = as_pictures(images)
    return inpainting(pictures, random_masks(*pictures.shape[:3], options, generator)).hint


def _outside(height: int, width: int, share: float, draw) -> np.ndarray:
    """All but a rectangle; a side of the picture is kept as often as not."""
    stretch = float(2 ** (draw(1) - 0.5))
    mask = np.ones((height, width), np.uint8)
    inside = []
    for size, factor in ((height, stretch), (width, 1 / stretch)):
        kept = min(size, max(1, round(size * (1 - share) ** 0.5 * factor)))
        place = min(1.0, max(0.0, 2 * float(draw(1)) - 0.5))
        start = round(place * (size - kept))
        inside.append(slice(start, start + kept))
    mask[tuple(inside)] = 0
    return mask


def _holes(height: int, width: int, share: float, draw) -> np.ndarray:
    """Strokes of a pen and rectangles, as many as it takes."""
    cv2 = opencv()
    mask = np.zeros((height, width), np.uint8)
    side = min(height, width)
    for _ in range(_MOST_PIECES):
        if mask.mean() >= share:
            break
        rectangle, thick, x, y, across, down = draw(6).tolist()
        x, y = x * width, y * height
        if rectangle < 0.5:
            corner = (round(x + (0.1 + 0.3 * across) * width), round(y + (0.1 + 0.3 * down) * height))
            cv2.rectangle(mask, (round(x), round(y)), corner, 1, thickness=-1)
        else:
            steps = (draw(5, 2) - 0.5) * side
            points = torch.tensor([[x, y]]) + torch.cat([torch.zeros(1, 2), steps.cumsum(0)])
            thickness = max(1, round((0.04 + 0.12 * thick) * side))
            cv2.polylines(mask, [points.round().int().numpy()], False, 1, thickness)
    return mask
