"""Colour palette: a mosaic of flat squares, as the released colour controls were trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .opencv import opencv
from .pictures import as_bytes, as_pictures
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
    import numpy as np

    cv2, options = opencv(), options or ColorPaletteOptions()
    pictures = as_pictures(images)
    _, height, width, _ = pictures.shape
    squares = (max(1, width // options.cell), max(1, height // options.cell))
    mosaics = np.empty(tuple(pictures.shape), np.float32)
    for picture, mosaic in zip(pictures, mosaics, strict=True):
        small = cv2.resize(as_bytes(picture), squares, interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
        cv2.resize(small, (width, height), dst=mosaic, interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(mosaics).to(images.device)
