"""A hint of the host on its way to a forward: resized to the picture, spread over the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...scedit_core.conditions.fitting import fit_hint, trained_fitting
from ...scedit_core.hints import as_hint
from ...scedit_core.tuners import HINT_FACTOR
from .managed import ManagedTuner

if TYPE_CHECKING:
    from .run import Picture

RESIZE_MODES = ("stretch", "crop", "pad")


class Hint:
    """Where a CSC-Tuner's features come from.

    source: images [N,C,H,W], whose identity tells this hint from others.
    mode:   how they are brought to the proportions of the whole picture: "stretch", "crop" or "pad".
    """

    def __init__(self, tuner: ManagedTuner, source: Tensor, mode: str = "crop") -> None:
        self.tuner, self.source, self.mode = tuner, source, mode
        self.image = as_hint(source)

    def rows(self, picture: Picture) -> tuple[int, ...]:
        """Which of the images belongs to each picture of a forward; one serves all."""
        return batch_rows(len(self.image), picture.pictures, picture.options)

    def fitted(self, row: int, size: tuple[int, int]) -> Tensor:
        """That image as hint [1,3,8h,8w] for latents of `size` (h, w)."""
        return resized(self.image[row : row + 1], *latent_pixels(size), self.mode, self.tuner)


def resized(hint: Tensor, height: int, width: int, mode: str, tuner: ManagedTuner) -> Tensor:
    """A hint [B,C,h,w] as [B,3,height,width]: stretched, cropped at the centre or padded, as `tuner` was trained."""
    return fit_hint(hint, height, width, trained_fitting(tuner.tuner.metadata), mode)


def latent_pixels(latent_size: torch.Size | tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the hint for a latent [...,h,w]."""
    return latent_size[-2] * HINT_FACTOR, latent_size[-1] * HINT_FACTOR


def batch_rows(count: int, pictures: int, options: dict, sub_idxs: list[int] | None = None) -> tuple[int, ...]:
    """Which of `count` hints (or masks) belongs to each of `pictures` pictures of one forward.

    The rows are those of `sub_idxs`, else of AnimateDiff-Evolved's or the host's context window over the batch, else
    they go in order; where there are fewer hints than pictures they start again from the first.  One hint serves all:
    (0,).
    """
    if count == 1:
        return (0,)
    if sub_idxs is None:
        sub_idxs = (options.get("ad_params") or {}).get("sub_idxs")
    window = options.get("context_window")
    if sub_idxs is None and window is not None and window.dim == 0:
        anchor = getattr(window, "causal_anchor_index", None)  # a picture that newer hosts put before each window
        sub_idxs = [*([anchor] if anchor is not None and anchor >= 0 else []), *window.index_list]
    order = list(sub_idxs) if sub_idxs else list(range(pictures))
    return tuple(order[i % len(order)] % count for i in range(pictures))
