"""Completion: the picture with a hole (inpainting), or on a larger canvas (outpainting).  What is missing is black."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .pictures import as_masks, as_pictures
from .ranges import check_range

CANVAS_MULTIPLE = 64  # the authors round the sides of a larger canvas up to this
_LONGEST_SIDE = 16384


@dataclass(frozen=True)
class Margins:
    """Pixels to add at each side, 0 to 16384.  Raises ConditionError for other values."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        for side in ("left", "top", "right", "bottom"):
            check_range(side, getattr(self, side), 0, _LONGEST_SIDE)


class Completion(NamedTuple):
    """image, hint: [B,H,W,3] in 0..1; mask: [B,H,W], 1 where something will be painted, else 0."""

    image: Tensor
    hint: Tensor
    mask: Tensor


def inpainting(images: Tensor, masks: Tensor) -> Completion:
    """Images [B,H,W,C] in 0..1 with their masked pixels black in the hint, and unchanged in the image.

    masks: [B,h,w], [1,h,w] or [h,w], stretched to the images; 0.5 and more will be painted.  Source: the authors'
    annotator (scepter.modules.annotator.inpainting).  Raises ConditionError for images and masks of other shapes.
    """
    pictures = as_pictures(images)
    masked = as_masks(masks, pictures)
    return Completion(pictures, pictures.masked_fill(masked[..., None], 0), masked.float())


def outpainting(images: Tensor, margins: Margins, multiple: int = CANVAS_MULTIPLE) -> Completion:
    """Images [B,h,w,C] in 0..1 on a canvas [B,H,W,3] whose sides are rounded up to `multiple`.

    What the rounding adds goes to the sides with margins, in their proportion, and right and to the bottom where there
    are none.  New pixels are black in the hint and grey in the image, as the host's own padding has them.  Source: the
    authors' annotator (scepter.modules.annotator.outpainting).  Raises ConditionError for images that `as_pictures`
    refuses.
    """
    check_range("multiple", multiple, 1, _LONGEST_SIDE)
    pictures = as_pictures(images)
    batch, height, width, _ = pictures.shape
    left, full_width = _place(width, margins.left, margins.right, multiple)
    top, full_height = _place(height, margins.top, margins.bottom, multiple)
    inside = (slice(None), slice(top, top + height), slice(left, left + width))
    hint = pictures.new_zeros(batch, full_height, full_width, 3)
    hint[inside] = pictures
    image = torch.full_like(hint, 0.5)
    image[inside] = pictures
    mask = hint.new_ones(batch, full_height, full_width)
    mask[inside] = 0
    return Completion(image, hint, mask)


def _place(size: int, before: int, after: int, multiple: int) -> tuple[int, int]:
    """Where the picture begins on its canvas, and the canvas's size."""
    full = -(-(size + before + after) // multiple) * multiple
    return (before * (full - size) // (before + after) if before else 0), full
