"""Canny edges: white lines on black, as the released canny controls were trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CannyOptions:
    """low, high: thresholds on 0..255; blur: sigma in pixels of a Gaussian blur before, 0 for none."""

    low: float = 100.0
    high: float = 200.0
    blur: float = 0.0


def canny(images: Tensor, options: CannyOptions | None = None) -> Tensor:
    """Edges of images [B,H,W,3] in 0..1: float [B,H,W,3], 0 or 1, three equal channels, on the images' device.

    The defaults are those of the authors' annotator (reference/conditions.md).
    """
    import cv2
    import numpy as np

    options = options or CannyOptions()
    pixels = (images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    edges = np.empty(pixels.shape[:3], np.uint8)
    for picture, edge in zip(pixels, edges, strict=True):
        picture = np.ascontiguousarray(picture)
        if options.blur > 0:
            picture = cv2.GaussianBlur(picture, (0, 0), options.blur)
        edge[:] = cv2.Canny(picture, options.low, options.high)
    white = torch.from_numpy(edges).to(images.device).float() / 255
    return white[..., None].expand(*white.shape, 3).contiguous()
