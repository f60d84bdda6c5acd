"""What every condition takes and gives: pictures [B,H,W,C], checked in one place, as floats or as bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConditionError
from .opencv import opencv

_MANY = 16  # different values of one picture, which do not all lie so close to such steps by chance

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


def is_blank(hint: Tensor) -> bool:
    """Whether a hint [C,H,W] is of one colour, and so says nothing."""
    return bool((hint == hint[:, :1, :1]).all())


def off_detour(values: Tensor, inverted: bool = False) -> Tensor:
    """Floats of a grey 8-bit picture as v/255, where ComfyUI has decoded it through 16 bits as v*256/65535.

    *Load Image* of v0.28.0 does so: white is 0.9961 then, and label 200 would be 199.  Such values give themselves
    away, since no v/255 but 0 is a multiple of 256/65535: all other pictures are returned as they are.

    inverted: the values may also be 1 - v*256/65535, as those of a mask that is made of alpha.
    """
    if values.is_floating_point() and values.numel():
        few = values.flatten()[:: values.numel() // 4096 + 1]  # enough to tell nearly all others, and quick
        for turned in (False, True) if inverted else (False,):
            if _detour(few, turned) is not None and (found := _detour(values, turned)) is not None:
                return (1 - found / 255 if turned else found / 255).to(values.dtype)
    return values


def _detour(values: Tensor, turned: bool) -> Tensor | None:
    """v in 0..255 where all values are v*256/65535; None where one is not."""
    levels = (1 - values if turned else values).float() * 65535
    steps = (levels / 256).round()
    off = (levels - steps * 256).abs()
    if steps.min() < 0 or steps.max() > 255:
        return None
    # Beside an alpha channel, in widths that are no multiple of 32, the decoder is up to 3 of 65535 off, 3 for white.
    exact = (off < 0.05) | ((levels - 65283).abs() < 0.05)
    return steps if exact.all() or (off.max() < 3.2 and len(steps.unique()) >= _MANY) else None


def eight_bits(values: Tensor) -> Tensor:
    """Floats as uint8 in 0..255, rounded; what lies outside of 0..1 is clamped."""
    return (values.clamp(0, 1) * 255).round().byte()


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
        pictures = off_detour(images[..., :3].float())
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
    masks = off_detour(masks.to(pictures.device).float(), inverted=True)
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
