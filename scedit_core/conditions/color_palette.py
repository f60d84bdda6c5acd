"""Colour palette: a mosaic of flat squares, as the released colour controls were trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .opencv import opencv
from .pictures import as_bytes, as_finite_pictures
from .ranges import check_range


@dataclass(frozen=True)
class ColorPaletteOptions:
    """cell: side of a square in pixels, 1 to 4096.  Raises ConditionError for other values."""

    cell: int = 64

    def __post_init__(self) -> None:
        check_range("color_palette cell", self.cell, 1, 4096)


def color_palette(images: Tensor, options: ColorPaletteOptions | None = None) -> Tensor:
    """A mosaic of images [B,H,W,C] in 0..1: float [B,H,W,3] in 0..1 on the images' device.

    Shrunk by `cell` with a cubic filter and grown back to the same size, at least one square a side.  The default is
    that of the authors' annotator (scepter.modules.annotator.color).  Raises ConditionError for images that
    `as_pictures` refuses.
    """
    cv2, options = opencv(), options or ColorPaletteOptions()
    pictures = as_finite_pictures(images)
    batch, height, width, _ = pictures.shape
    squares = (max(1, width // options.cell), max(1, height // options.cell))
    down, across = _nearest(squares[1], height), _nearest(squares[0], width)
    seen = _rows_seen(height, squares[1])
    rows = torch.from_numpy(seen).to(pictures.device)
    pixels = np.empty((height, width, 3), np.uint8)
    mosaics = np.empty((batch, height, width, 3), np.float32)
    for picture, mosaic in zip(pictures, mosaics, strict=True):
        pixels[seen] = as_bytes(picture[rows].clamp(0, 1))
        small = cv2.resize(pixels, squares, interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
        # Faster than cv2's growing of floats; other modes than clip would write to a copy first.
        np.take(small.take(across, axis=1, mode="clip"), down, axis=0, out=mosaic, mode="clip")
    return torch.from_numpy(mosaics).to(images.device)


def _rows_seen(height: int, squares: int) -> np.ndarray:
    """Rows that a cubic filter looks at when it shrinks `height` rows to `squares`: four each, and one more around.

    The others need not become bytes, which is most of the work.
    """
    middle = (np.arange(squares) + 0.5) * height / squares - 0.5
    rows = np.floor(middle)[:, None].astype(int) + np.arange(-2, 4)
    return np.unique(rows.clip(0, height - 1))


def _nearest(squares: int, size: int) -> np.ndarray:
    """Which of `squares` each of `size` pixels is in, by cv2's own rounding."""
    cv2 = opencv()
    numbers = np.arange(squares, dtype=np.float32)[None]
    return cv2.resize(numbers, (size, 1), interpolation=cv2.INTER_NEAREST)[0].astype(int)
