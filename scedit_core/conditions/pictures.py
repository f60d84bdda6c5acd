"""What every condition takes and gives: pictures [B,H,W,C], checked in one place, as floats or as bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConditionError
from .opencv import opencv

if TYPE_CHECKING:
    import numpy as np


def as_pictures(images: Tensor) -> Tensor:
    """Images [B,H,W,C] as float32 [B,H,W,3] in 0..1, on their device; not a copy where they are that already.

    images: float in 0..1 (what lies outside is clamped) or uint8 in 0..255.  C is 1 (grey, repeated), 3, or 4 (the
    alpha channel is dropped).  Raises ConditionError for other shapes and dtypes, and for NaN and infinity.
    """
    pictures = _floats(images)
    if pictures.numel() == 0 or images.dtype == torch.uint8:
        return pictures
    lowest, highest = (float(v) for v in pictures.aminmax())  # both are NaN where a single value is
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise _not_finite()
    return pictures if lowest >= 0 and highest <= 1 else pictures.clamp(0, 1)


def as_finite_pictures(images: Tensor) -> Tensor:
    """`as_pictures` without the clamping, for what looks at a few pixels only: that halves the time of the check."""
    pictures = _floats(images)
    if not math.isfinite(float(pictures.sum())) and not torch.isfinite(pictures).all():  # large sums are infinite too
        raise _not_finite()
    return pictures


def _floats(images: Tensor) -> Tensor:
    """Images [B,H,W,C] as float32 [B,H,W,3]."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape[1:]:
        raise ConditionError(
            f"image: expected pictures [B,H,W,C] with 1, 3 or 4 channels, found {list(shape)}; connect an IMAGE"
        )
    if images.dtype == torch.uint8:
        pictures = images[..., :3].float() / 255
    elif images.is_floating_point():
        pictures = images[..., :3].float()
    else:
        raise ConditionError(
            f"image: expected pictures of floats in 0..1 or of uint8, found {str(images.dtype)[6:]}; convert them"
        )
    return pictures.expand(*shape[:-1], 3) if shape[-1] == 1 else pictures


def _not_finite() -> ConditionError:
    return ConditionError(
        "image: expected finite values, found NaN or infinity; look at the node that makes the picture"
    )


def as_masks(masks: Tensor, pictures: Tensor) -> Tensor:
    """Masks [B,h,w], [1,h,w] or [h,w] as bool [B,H,W] of the pictures' size and device; 0.5 and more is masked.

    pictures: [B,H,W,3].  Raises ConditionError for other shapes and batches, and for NaN and infinity.
    """
    batch, height, width, _ = pictures.shape
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or masks.shape[0] not in (1, batch) or 0 in masks.shape[1:]:
        raise ConditionError(
            f"mask: expected a mask [h,w], or one for each of {batch} pictures, found {list(masks.shape)}; "
            "connect a MASK"
        )
    masks = masks.to(pictures.device).float()
    if not torch.isfinite(masks).all():
        raise ConditionError("mask: expected finite values, found NaN or infinity; look at the node that makes it")
    if batch == 0:  # nothing to stretch, which `interpolate` refuses
        return masks.new_zeros(0, height, width, dtype=torch.bool)
    masks = F.interpolate(masks[:, None], size=(height, width), mode="nearest-exact")[:, 0]
    return (masks >= 0.5).expand(batch, height, width)


def as_bytes(picture: Tensor) -> np.ndarray:
    """A picture [H,W,3] in 0..1 as uint8 in 0..255, rounded, contiguous, on the CPU: what cv2 works on."""
    return opencv().convertScaleAbs(picture.contiguous().cpu().numpy(), alpha=255)


def from_grey(grey: Tensor) -> Tensor:
    """Grey pictures [B,H,W] as three equal channels [B,H,W,3]."""
    return grey[..., None].expand(*grey.shape, 3).contiguous()
