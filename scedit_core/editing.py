"""The one formula by which tuners edit a skip, for any number of them at once.

    s' = s + sum over SC-Tuners  strength * A_b(s)
           + sum over CSC-Tuners strength * scale * (g_b + A_b(s + g_b))

Every residual reads the unedited skip s, so the result does not depend on the order.  folding.py computes the same for
all tuners at once; this is the plain form, for reading, for tests and for training.  Source: paper, 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import HintError
from .tuners import CSCTuner, SCTuner


@dataclass
class Edit:
    """One tuner at work.

    strength:      multiplies the residual; a CSC-Tuner's own scale comes on top.
    hint_features: what `CSCTuner.encode_hint` gave, for a CSC-Tuner; their batch divides the skip's.
    block_weights: a factor for each block, 1 where None.
    mask:          [B or 1, H, W] in 0..1 over the picture; multiplies the residual at the skip's size.
    resize_hint:   fit hint features to a skip of another size (hosts that shrink skips) instead of refusing.
    rows:          indices of the batch rows to edit, all where None; hint features and mask then belong to those rows.
    """

    tuner: SCTuner | CSCTuner
    strength: float = 1.0
    hint_features: Sequence[Tensor | None] | None = None
    block_weights: Sequence[float] | None = None
    mask: Tensor | None = None
    resize_hint: bool = False
    rows: Tensor | None = None

    def weight(self, b: int) -> float:
        """What the residual of block b is multiplied with."""
        weight = self.strength if self.block_weights is None else self.strength * self.block_weights[b]
        return weight * self.tuner.scale if isinstance(self.tuner, CSCTuner) else weight

    def weights(self) -> tuple[float, ...]:
        """`weight` of every block."""
        return tuple(self.weight(b) for b in range(len(self.tuner.layout)))

    def residual(self, b: int, skip: Tensor) -> Tensor | None:
        """The unweighted residual [B,C,h,w] for the skip of block b, or None.  Raises HintError for a wrong hint."""
        if isinstance(self.tuner, SCTuner):
            return self.tuner.residual(b, skip)
        feature = fitted_feature(self, b, len(skip), tuple(skip.shape[-2:]))
        return None if feature is None else self.tuner.residual(b, skip, _repeated(feature, len(skip)))


def edit_skip(b: int, skip: Tensor, edits: Iterable[Edit], onto: Tensor | None = None) -> Tensor:
    """Apply all `edits` to the skip [B,C,h,w] of block b.  Returns `skip` itself where nothing edits it.

    onto: the skip as others have edited it already; what `edits` add is added to that.
    """
    edited = skip if onto is None else onto
    for edit in edits:
        weight = edit.weight(b)
        if weight == 0:
            continue
        residual = edit.residual(b, skip if edit.rows is None else skip[edit.rows])
        if residual is None:
            continue
        if edit.mask is not None:
            mask = fitted_mask(edit.mask, len(residual), tuple(residual.shape[-2:])).to(residual)
            residual = residual * _repeated(mask, len(residual))
        residual = residual.to(skip.dtype)
        if edit.rows is None:
            edited = edited.add(residual, alpha=weight)
        else:
            edited = edited.index_add(0, edit.rows, residual, alpha=weight)
    return edited


def fitted_feature(edit: Edit, b: int, rows: int, size: tuple[int, int]) -> Tensor | None:
    """The hint feature [P,C,h,w] of block b for skips [rows,C,*size], P dividing `rows`; None where there is none.

    Raises HintError where it is of another size and `edit.resize_hint` is off, and where its batch does not divide.
    """
    feature = edit.hint_features[b] if edit.hint_features is not None else None
    if feature is None:
        return None
    if tuple(feature.shape[-2:]) != size:
        if not edit.resize_hint:
            raise HintError(
                f"hint: expected features of {size[0]}x{size[1]} for this skip, found {feature.shape[-2]}x"
                f"{feature.shape[-1]}; make the hint as large as the picture, which is 8 times the latent"
            )
        feature = F.interpolate(feature, size, mode="bilinear", align_corners=False)
    if rows % feature.shape[0]:
        raise HintError(
            f"hint: expected a batch of 1 or one that divides {rows}, found {feature.shape[0]}; "
            "give one hint, or one for each picture"
        )
    return feature


def fitted_mask(mask: Tensor, rows: int, size: tuple[int, int]) -> Tensor:
    """A mask [B or 1, H, W] at `size` as [B or 1, 1, h, w], for `rows` rows of a batch.

    Averages over areas, so that all ones stay one and all zeros zero, exactly.  Computed on the CPU in float32, since
    some devices refuse sizes that do not divide.  Raises HintError for other shapes.
    """
    if mask.ndim != 3 or mask.numel() == 0:
        raise HintError(
            f"mask: expected [B,H,W], found {list(mask.shape)}; give a mask with a batch and without channels"
        )
    if rows % mask.shape[0]:
        raise HintError(
            f"mask: expected a batch of 1 or one that divides {rows}, found {mask.shape[0]}; "
            "give one mask, or one for each picture"
        )
    return F.interpolate(mask[:, None].to("cpu", torch.float32), size, mode="area").to(mask.device)


def _repeated(tensor: Tensor, rows: int) -> Tensor:
    return tensor if len(tensor) in (1, rows) else tensor.repeat(rows // len(tensor), 1, 1, 1)


def is_active(sigma: float, start_sigma: float, end_sigma: float) -> bool:
    """Whether a step at noise level `sigma` lies in the half-open range end < sigma <= start.

    Half-open, so that ranges that meet cover each step exactly once.
    """
    return end_sigma < sigma <= start_sigma
