"""Hints and masks on the way to a forward: checked, resized to the picture, spread over the batch, encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...scedit_core import HintError
from ...scedit_core.conditions.fitting import fit_hint, trained_fitting
from ...scedit_core.conditions.pictures import off_detour
from ...scedit_core.tuners import HINT_FACTOR
from .managed import ManagedTuner

if TYPE_CHECKING:
    from .patch import Hint

RESIZE_MODES = ("stretch", "crop", "pad")


def as_hint(image: Tensor) -> Tensor:
    """An image [B,C,H,W] of the host as hint [B,3,H,W], or with its alpha [B,4,H,W]; grey is spread over three.

    Raises HintError for an empty batch.
    """
    if image.ndim != 4 or min(image.shape) < 1:
        raise HintError(
            f"hint image: expected at least one image, found a batch of shape {list(image.shape)}; connect an image"
        )
    return image[:, :1].expand(-1, 3, -1, -1) if image.shape[1] < 3 else image[:, :4]


def as_mask(mask: Tensor) -> Tensor:
    """A mask [B,H,W], [H,W], [B,1,H,W] or [B,H,W,1] of the host as [B,H,W].

    Raises HintError for other shapes and for an empty batch.
    """
    found = list(mask.shape)
    if mask.ndim == 2:
        mask = mask[None]
    elif mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[3]):
        mask = mask.squeeze(1 if mask.shape[1] == 1 else 3)
    if mask.ndim != 3 or min(mask.shape) < 1:
        raise HintError(
            f"mask: expected at least one mask [B,H,W], found one of shape {found}; connect a MASK that is "
            "not empty and has no colour channels"
        )
    return off_detour(mask, inverted=True)


def resized(hint: Tensor, height: int, width: int, mode: str, tuner: ManagedTuner) -> Tensor:
    """A hint [B,C,h,w] as [B,3,height,width]: stretched, cropped at the centre or padded, as `tuner` was trained."""
    return fit_hint(hint, height, width, trained_fitting(tuner.tuner.metadata), mode)


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


class Features:
    """A CSC-Tuner's hint features by block: encoded when they are asked for, each let go when it is taken.

    One picture at a time, so that their bits do not depend on the batch, nor on which windows found room.
    """

    def __init__(
        self, tuner: ManagedTuner, weights: Sequence[float], hint: Hint, rows: tuple[int, ...], size, like: Tensor
    ) -> None:
        self.tuner, self.weights, self.hint, self.rows, self.size = tuner, weights, hint, rows, size
        self._place, self._left = (like.device, like.dtype), {}

    def __getitem__(self, b: int) -> Tensor | None:
        """Those of block b [len(rows),C,h,w], or None where it is not tuned."""
        if b not in self._left:
            self._left = self._encoded()
        return self._left.pop(b, None)

    def _encoded(self) -> dict[int, Tensor]:
        each = []
        for row in self.rows:
            hint = self.hint.fitted((row,), self.size)
            if not hint.isfinite().all():
                raise HintError(
                    f"hint for {self.tuner.name}: expected numbers in 0..1, found NaN or infinity; look at the node "
                    "that makes the hint"
                )
            each.append(self.tuner.tuner.encode_hint(hint.to(*self._place), self.tuner.encoder))
        blocks = (b for b, weight in enumerate(self.weights) if weight != 0 and each[0][b] is not None)
        return {b: each[0][b] if len(each) == 1 else torch.cat([features[b] for features in each]) for b in blocks}


def latent_pixels(latent_size: torch.Size | list[int]) -> tuple[int, int]:
    """Height and width of the hint for a latent [...,h,w]."""
    return latent_size[-2] * HINT_FACTOR, latent_size[-1] * HINT_FACTOR
