"""A hint at the size of a picture, by what the hint shows: the one place where hints are resized.

Lines stay lines, maps keep their colours, depth stays smooth, and what is transparent shows the condition's nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConditionError
from .pictures import as_pictures, eight_bits, off_detour

KINDS = ("lines", "flat", "smooth")
PAPERS = {"black": 0, "white": 255}
MODES = ("crop", "stretch", "pad")
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the hint
_KEY = "scedit.condition"


@dataclass(frozen=True)
class Fitting:
    """How hints of a condition come to another size.

    kind:    "lines": shrunk, each pixel is the one of its area that is farthest from nothing, so that thin lines
             neither fade nor break; "flat": each pixel is the nearest, so that no colour is mixed; "smooth": bilinear,
             over the whole area where it is shrunk.  Lines and flat colours are enlarged by the nearest pixel.
    nothing: "black" or "white": what is seen where a hint is transparent, and where it is padded.
    """

    kind: str
    nothing: str = "black"

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.nothing not in PAPERS:
            raise ConditionError(
                f"fitting in metadata {_KEY}: expected one of {', '.join(KINDS)} on one of {', '.join(PAPERS)}, found "
                f"{str(self.kind)[:40]!r} on {str(self.nothing)[:40]!r}; update this pack, which is older than the "
                "tuner"
            )

    def said(self) -> dict[str, str]:
        """What the metadata of a tuner that is trained so say of it, beside the condition's options."""
        return {"fitting": self.kind, "nothing": self.nothing}


def fitting_of(condition: Mapping[str, Any]) -> Fitting:
    """The fitting of a condition such as {"type": "soft_edge", "polarity": "light_on_dark"}.

    What it says itself as "fitting" and "nothing" counts; conditions of unknown types are smooth on black, and those of
    the type "custom" are what their "name" says.  Raises ConditionError for a fitting that there is not.
    """
    kind, nothing = {
        "canny": ("lines", "black"),
        "soft_edge": ("lines", "black" if condition.get("polarity") == "light_on_dark" else "white"),
        "pose": ("lines", "black"),
        "segmentation": ("flat", "black"),
        "color_palette": ("flat", "white"),  # that of a picture, which is put on white where it is transparent
        "depth": ("smooth", "white" if condition.get("invert") is True else "black"),
    }.get(condition.get("name" if condition.get("type") == "custom" else "type"), ("smooth", "black"))
    return Fitting(condition.get("fitting") or kind, condition.get("nothing") or nothing)


def trained_fitting(metadata: Mapping[str, str]) -> Fitting | None:
    """The fitting that a tuner was trained with, as its metadata say; None where they say none: it is older.

    Raises ConditionError for a fitting that there is not.
    """
    try:
        said = json.loads(metadata.get(_KEY) or "null")
    except (ValueError, RecursionError):
        return None  # not what a trainer of this pack wrote
    return fitting_of(said) if isinstance(said, dict) and said.get("fitting") else None


def fit_hint(
    hint: Tensor, height: int, width: int, fitting: Fitting | None, mode: str = "crop", box: Box | None = None
) -> Tensor:
    """Hints [B,C,h,w] as [B,3,height,width] in 0..1, on their device: what training and sampling both see.

    hint:    floats in 0..1, or uint8; C is 1 (grey), 3, or 4, whose alpha lets the fitting's nothing show.
    fitting: of the tuner; None for files that say none: alpha is dropped, and each pixel is the nearest, as it always
             was for them.
    mode:    for a hint of other proportions: "crop" its centre, "stretch" it, or "pad" it with nothing.
    box:     the part of the hint that is shown, in place of what `mode` says.

    The result is made of whole 256ths in integer arithmetic, so that it is the same bit for bit on every machine and in
    any batch; without a fitting values stay what they are.  Raises ConditionError for other shapes, dtypes and modes,
    and for NaN and infinity.
    """
    if mode not in MODES:
        raise ConditionError(f"resize: expected one of {', '.join(MODES)}, found {str(mode)[:40]!r}; choose one")
    if fitting is None:
        return _as_ever(hint, height, width, mode)
    pixels = _on_nothing(hint, PAPERS[fitting.nothing])
    if mode == "pad" and box is None:
        inner, around = _padding(pixels.shape[-2:], height, width)
        return F.pad(fit_hint(pixels, *inner, fitting, "stretch"), around, value=PAPERS[fitting.nothing] / 255)
    if box is None:
        box = centre_box(pixels.shape[-2:], height, width) if mode == "crop" else (0, 0, *pixels.shape[:-3:-1])
    if (height, width) != tuple(pixels.shape[-2:]) or box != (0, 0, width, height):
        resize = _smooth if fitting.kind == "smooth" else partial(_picked, fitting=fitting)
        pixels = resize(pixels, height, width, box)
    return pixels.to(hint.device).float() / 255


def centre_box(size: tuple[int, int] | torch.Size, height: int, width: int) -> Box:
    """The largest part about the centre of a hint of `size` (h, w) that has the proportions of `height` by `width`."""
    h, w = size
    scale = max(height / h, width / w)
    across, down = min(w, width / scale), min(h, height / scale)
    return (w - across) / 2, (h - down) / 2, (w + across) / 2, (h + down) / 2


def _on_nothing(hint: Tensor, nothing: int) -> Tensor:
    """Hints [B,C,h,w] as uint8 [B,3,h,w] on the CPU, without what is transparent."""
    pixels = eight_bits(as_pictures(hint.movedim(1, -1))).movedim(-1, 1).cpu()
    if hint.shape[1] != 4:
        return pixels
    alpha = hint[:, 3:].cpu()
    alpha = eight_bits(alpha.float()) if alpha.is_floating_point() else alpha
    alpha = alpha.int()
    return ((pixels.int() * alpha + nothing * (255 - alpha) + 127) // 255).byte()


def _smooth(pixels: Tensor, height: int, width: int, box: Box) -> Tensor:
    from PIL import Image  # resamples bytes in whole numbers, alike on every processor

    made = torch.empty(len(pixels), height, width, 3, dtype=torch.uint8)
    for i, each in enumerate(pixels.movedim(1, -1)):
        picture = Image.fromarray(each.contiguous().numpy())
        resized = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        made[i] = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(height, width, 3)
    return made.movedim(-1, 1)


def _picked(pixels: Tensor, height: int, width: int, box: Box, fitting: Fitting) -> Tensor:
    """Pixels chosen, none mixed: along the rows, then along the columns."""
    for dim, size, begin, end in ((-1, width, box[0], box[2]), (-2, height, box[1], box[3])):
        step = (end - begin) / size
        last = pixels.shape[dim] - 1
        nearest = [min(last, int(begin + (i + 0.5) * step)) for i in range(size)]
        if step <= 1 or fitting.kind == "flat":
            pixels = pixels.index_select(dim, torch.tensor(nearest))
        else:
            pixels = _strongest(pixels.movedim(dim, -1), begin, step, nearest, PAPERS[fitting.nothing]).movedim(-1, dim)
    return pixels


def _strongest(pixels: Tensor, begin: float, step: float, nearest: list[int], nothing: int) -> Tensor:
    """Of each run of pixels [B,3,n,W] along the last dimension the one that is farthest from nothing.

    Each pixel belongs to one run, the one that its centre lies in: a line of one pixel stays one of one pixel, and what
    was connected stays connected.  Of equals that next to the run's middle is taken.
    """
    edges = [max(0, math.ceil(begin + i * step - 0.5)) for i in range(len(nearest) + 1)]
    runs = [range(a, min(b, pixels.shape[-1])) or (n,) for a, b, n in zip(edges, edges[1:], nearest, strict=False)]
    longest = max(len(run) for run in runs)
    places = torch.tensor([[run[min(i, len(run) - 1)] for i in range(longest)] for run in runs])
    off = (places - torch.tensor(nearest)[:, None]).abs()
    strength = (pixels.int() - nothing).abs().amax(1, keepdim=True)  # [B,1,n,W]
    best = (strength[..., places] * 65536 - off).argmax(-1, keepdim=True)  # [B,1,n,runs,1]
    return pixels[..., places].gather(-1, best.expand(-1, pixels.shape[1], -1, -1, -1))[..., 0]


def _as_ever(hint: Tensor, height: int, width: int, mode: str) -> Tensor:
    """The fitting of tuners that say none: that of ComfyUI's `common_upscale` with "nearest-exact"."""
    if hint.ndim != 4 or not 1 <= hint.shape[1] <= 4 or not hint.is_floating_point():
        raise ConditionError(
            f"hint: expected floats [B,C,H,W] with 1 to 4 channels, found {str(hint.dtype)[6:]} {list(hint.shape)}; "
            "pass a picture in 0..1"
        )
    hint = off_detour(hint[:, :1].expand(-1, 3, -1, -1) if hint.shape[1] < 3 else hint[:, :3])
    if mode == "pad":
        (inner, around) = _padding(hint.shape[-2:], height, width)
        return F.pad(F.interpolate(hint, size=inner, mode="nearest-exact"), around)
    if mode == "crop":
        old, new = hint.shape[-1] / hint.shape[-2], width / height
        x = round((hint.shape[-1] - hint.shape[-1] * (new / old)) / 2) if old > new else 0
        y = round((hint.shape[-2] - hint.shape[-2] * (old / new)) / 2) if old < new else 0
        x, y = min(x, (hint.shape[-1] - 1) // 2), min(y, (hint.shape[-2] - 1) // 2)  # one row or column stays
        hint = hint[..., y : hint.shape[-2] - y, x : hint.shape[-1] - x]
    return F.interpolate(hint, size=(height, width), mode="nearest-exact")


def _padding(size: torch.Size, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The size (h, w) of a hint that fits into `height` by `width` whole, and what is missing at each side."""
    scale = min(height / size[0], width / size[1])
    inner = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return inner, (left, width - inner[1] - left, top, height - inner[0] - top)
