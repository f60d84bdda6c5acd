"""Hint images on the way to hint features: resized to the picture, spread over the batch, encoded once in a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..scedit_core import HintError
from ..scedit_core.conditions.fitting import fit_hint, trained_fitting
from ..scedit_core.conditions.pictures import off_detour
from ..scedit_core.tuners import HINT_FACTOR, CSCTuner
from .managed import ManagedTuner

RESIZE_MODES = ("stretch", "crop", "pad")
_KEPT = 16  # areas, tiles and context windows take turns inside one step


class RunCache:
    """A few values made from tensors, for the time of one run.

    The identity of the source tensor is part of the key; the tensor is kept so that the identity stays its own.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple, tuple[Tensor, Any]] = OrderedDict()

    def get(self, source: Tensor, key: tuple, make: Callable[[], Any]) -> Any:
        """The value for `source` and `key`, made by `make` where it is not there."""
        key = (id(source), *key)
        if key not in self._entries:
            self._entries[key] = (source, make())
            if len(self._entries) > _KEPT:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return self._entries[key][1]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


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


def encoded(
    cache: RunCache, tuner: CSCTuner, hint: Tensor, rows: tuple[int, ...], repeats: int, like: Tensor
) -> list[Tensor | None]:
    """Features of the `rows` of a hint [N,3,8h,8w], `repeats` times over, in dtype and on the device of `like`.

    One row stays a batch of one, which broadcasts.
    """

    def make() -> list[Tensor | None]:
        features = tuner.encode_hint(hint[list(rows)].to(like.device, like.dtype))
        if len(rows) == 1:
            return features
        return [g if g is None else g.repeat(repeats, 1, 1, 1) for g in features]

    repeats = 1 if len(rows) == 1 else repeats
    return cache.get(hint, (rows, repeats, like.dtype, like.device), make)


def latent_pixels(latent_size: torch.Size | list[int]) -> tuple[int, int]:
    """Height and width of the hint for a latent [...,h,w]."""
    return latent_size[-2] * HINT_FACTOR, latent_size[-1] * HINT_FACTOR
