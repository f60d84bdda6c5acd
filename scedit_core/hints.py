"""Hints and masks on their way to an edit: checked, and encoded when their features are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .conditions.pictures import off_detour
from .errors import HintError


def as_hint(image: Tensor) -> Tensor:
    """Images [B,C,H,W] as hints [B,3,H,W], or with their alpha [B,4,H,W]; grey is spread over three.

    Raises HintError for an empty batch.
    """
    if image.ndim != 4 or min(image.shape) < 1:
        raise HintError(
            f"hint image: expected at least one image, found a batch of shape {list(image.shape)}; connect an image"
        )
    return image[:, :1].expand(-1, 3, -1, -1) if image.shape[1] < 3 else image[:, :4]


def as_mask(mask: Tensor) -> Tensor:
    """A mask [B,H,W], [H,W], [B,1,H,W] or [B,H,W,1] as [B,H,W].

    Raises HintError for other shapes, for none, and for NaN and infinity.
    """
    found = list(mask.shape)
    if mask.ndim == 2:
        mask = mask[None]
    elif mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[3]):
        mask = mask.squeeze(1 if mask.shape[1] == 1 else 3)
    if mask.ndim != 3 or min(mask.shape) < 1:
        raise HintError(
            f"mask: expected at least one mask [B,H,W], found shape {found}; connect a MASK that is not empty and "
            "has no colours"
        )
    if not torch.isfinite(mask).all():
        raise HintError("mask: expected numbers in 0..1, found NaN or infinity; look at the node that makes it")
    return off_detour(mask, inverted=True)


_digests: WeakIdKeyDictionary = WeakIdKeyDictionary()


def digest(image: Tensor | None) -> bytes:
    """Tells images and masks apart by what they show; once for each, since a large one takes tens of milliseconds."""
    if image is None:
        return b""
    if image not in _digests:
        _digests[image] = hashlib.blake2b(image.detach().float().cpu().contiguous().numpy()).digest()
    return _digests[image]


class Features:
    """A CSC-Tuner's hint features by block, for `Edit`: encoded when they are asked for, each let go when it is taken.

    One picture at a time, so that their bits do not depend on the batch, nor on what else is kept.

    name:    of the tuner, for messages.
    encode:  `CSCTuner.encode_hint`.
    weights: of each block's residual; where it is 0 no feature is needed.
    hint:    gives the hint [1,3,8h,8w] of a row.
    rows:    which hint belongs to each picture.
    like:    has the device and dtype to compute in.
    """

    def __init__(
        self, name: str, encode: Callable[[Tensor], Sequence[Tensor | None]], weights: Sequence[float],
        hint: Callable[[int], Tensor], rows: tuple[int, ...], like: Tensor,
    ) -> None:  # fmt: skip
        self.name, self.encode, self.weights = name, encode, weights
        self.hint, self.rows, self._place = hint, rows, (like.device, like.dtype)
        self._left: dict[int, Tensor] = {}

    def __getitem__(self, b: int) -> Tensor | None:
        """Those of block b [len(rows),C,h,w], or None where it is not tuned."""
        if b not in self._left:
            self._left = self._encoded()
        return self._left.pop(b, None)

    def _encoded(self) -> dict[int, Tensor]:
        each = []
        for row in self.rows:
            hint = self.hint(row)
            if not hint.isfinite().all():
                raise HintError(
                    f"hint for {self.name}: expected numbers in 0..1, found NaN or infinity; look at the node that "
                    "makes the hint"
                )
            each.append(self.encode(hint.to(*self._place)))
        blocks = (b for b, weight in enumerate(self.weights) if weight != 0 and each[0][b] is not None)
        return {b: each[0][b] if len(each) == 1 else torch.cat([features[b] for features in each]) for b in blocks}
