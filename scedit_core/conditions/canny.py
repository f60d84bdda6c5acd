"""Canny edges: white lines on black, as the released canny controls were trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .opencv import opencv
from .pictures import as_bytes, as_pictures
from .ranges import check_range


@dataclass(frozen=True)
class CannyOptions:
    """low, high: thresholds on 0..255; blur: sigma in pixels of a Gaussian blur before, 0 for none, at most 100.

    Raises ConditionError for values outside those bounds; thresholds go beyond 255, as gradients do.
    """

    low: float = 100.0
    high: float = 200.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        check_range("canny low", self.low, 0, 10000)
        check_range("canny high", self.high, 0, 10000)
        check_range("canny blur", self.blur, 0, 100)


def canny(images: Tensor, options: CannyOptions | None = None) -> Tensor:
    """Edges of images [B,H,W,C] in 0..1: float [B,H,W,3], 0 or 1, three equal channels, on the images' device.

    The defaults are those of the authors' annotator (scepter.modules.annotator.canny).  Raises ConditionError for
    images that `as_pictures` refuses.
    """
    cv2, options = opencv(), options or CannyOptions()
    pictures = as_pictures(images)
    drawn = np.empty(tuple(pictures.shape), np.float32)
    for picture, out in zip(pictures, drawn, strict=True):
        pixels = as_bytes(picture)
        if options.blur > 0:
            pixels = cv2.GaussianBlur(pixels, (0, 0), options.blur)
        edges = np.divide(cv2.Canny(pixels, options.low, options.high), 255, dtype=np.float32)
        cv2.cvtColor(edges, cv2.COLOR_GRAY2RGB, dst=out)
    return torch.from_numpy(drawn).to(images.device)
