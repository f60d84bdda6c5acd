"""Soft edges: HED's edge maps, dark on light as the released controls were trained, or light on dark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConditionError
from .hed import HED
from .opencv import opencv
from .pictures import as_pictures, from_grey

POLARITIES = ("auto", "dark_on_light", "light_on_dark")
_SAFE_STEPS = 2
# Scribbles: sigma in pixels of the smoothing before thinning and of the pen, and the grey of 0..255 of a faint line.
_SIGMA, _FAINT = 3.0, 127


@dataclass(frozen=True)
class SoftEdgeOptions:
    """polarity: auto is dark on light, as the released controls were trained; most other controls want light on dark.

    safe:     edges in three levels only, which hides faint traces of the picture.
    scribble: lines of one strength and width along the ridges, as if drawn with a felt pen.

    Raises ConditionError for another polarity.
    """

    polarity: str = "auto"
    safe: bool = False
    scribble: bool = False

    def __post_init__(self) -> None:
        if self.polarity not in POLARITIES:
            raise ConditionError(
                f"soft_edge polarity: expected one of {', '.join(POLARITIES)}, found {str(self.polarity)[:40]!r}; "
                "choose one of them"
            )


@torch.inference_mode()
def soft_edge(
    images: Tensor,
    network: HED,
    options: SoftEdgeOptions | None = None,
    device: torch.device | str | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Tensor:
    """Soft edges of images [B,H,W,C] in 0..1: float [B,H,W,3] in 0..1, three equal channels, on the images' device.

    network:    on `device`, which is the images' by default.
    on_picture: called after each picture; they go through the network one by one, which bounds the memory.

    Source: the authors' annotator (scepter.modules.annotator.hed), without its rounding to bytes.  Raises
    ConditionError for images that `as_pictures` refuses.
    """
    options = options or SoftEdgeOptions()
    pictures = as_pictures(images)
    edges = torch.empty(pictures.shape[:3], device=pictures.device)
    for picture, edge in zip(pictures, edges, strict=True):
        found = network(picture.to(device or picture.device).permute(2, 0, 1)[None])[0]
        if options.safe:
            found = ((found * (_SAFE_STEPS + 1)).floor() / _SAFE_STEPS).clamp(max=1)
        edge.copy_(scribbled(found) if options.scribble else found)
        on_picture()
    return from_grey(edges if options.polarity == "light_on_dark" else 1 - edges)


def scribbled(edges: Tensor) -> Tensor:
    """Edges [H,W] in 0..1 thinned to their ridges and drawn again as even lines: 0 or 1, [H,W], on the same device.

    A pixel is on a ridge where none of its two neighbours in one of the four directions is stronger.
    """
    import numpy as np

    cv2 = opencv()
    grey = (edges * 255).floor().cpu().numpy().astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), _SIGMA)
    row = np.zeros((3, 3), np.uint8)
    row[1] = 1
    diagonal = np.eye(3, dtype=np.uint8)
    lines = (row, np.ascontiguousarray(row.T), diagonal, np.ascontiguousarray(diagonal[::-1]))
    ridge = np.zeros(grey.shape, bool)
    for line in lines:
        ridge |= cv2.dilate(smooth, line) == smooth
    drawn = cv2.GaussianBlur((ridge & (smooth > _FAINT)).astype(np.float32), (0, 0), _SIGMA)
    return torch.from_numpy((drawn * 255 > 4).astype(np.float32)).to(edges.device)
