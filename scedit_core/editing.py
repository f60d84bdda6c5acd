"""The one formula by which tuners edit a skip, for any number of them at once.

    s' = s + sum over SC-Tuners  strength * A_b(s)
           + sum over CSC-Tuners strength * scale * (g_b + A_b(s + g_b))

Every residual reads the unedited skip s, so the result does not depend on the order (DESIGN, "The method, exactly").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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

    def residual(self, b: int, skip: Tensor) -> Tensor | None:
        """The unweighted residual [B,C,h,w] for the skip of block b, or None.  Raises HintError for a wrong hint."""
        if isinstance(self.tuner, SCTuner):
            return self.tuner.residual(b, skip)
        feature = self.hint_features[b] if self.hint_features is not None else None
        return None if feature is None else self.tuner.residual(b, skip, self._fitted(feature, skip))

    def _fitted(self, feature: Tensor, skip: Tensor) -> Tensor:
        if feature.shape[-2:] != skip.shape[-2:]:
            if not self.resize_hint:
                raise HintError(
                    f"hint: expected one that gives features of {_size(skip)} for this skip, found {_size(feature)}; "
                    "make the hint 8 times the size of the latent, which is the size of the picture"
                )
            feature = F.interpolate(feature, skip.shape[-2:], mode="bilinear", align_corners=False)
        if feature.shape[0] not in (1, skip.shape[0]):
            if skip.shape[0] % feature.shape[0]:
                raise HintError(
                    f"hint: expected a batch of 1 or one that divides {skip.shape[0]}, found {feature.shape[0]}; "
                    "give one hint, or one for each picture"
                )
            feature = feature.repeat(skip.shape[0] // feature.shape[0], 1, 1, 1)
        return feature


def edit_skip(b: int, skip: Tensor, edits: Iterable[Edit]) -> Tensor:
    """Apply all `edits` to the skip [B,C,h,w] of block b.  Returns `skip` itself where nothing edits it."""
    edited = skip
    for edit in edits:
        weight = edit.weight(b)
        if weight == 0:
            continue
        residual = edit.residual(b, skip if edit.rows is None else skip[edit.rows])
        if residual is None:
            continue
        if edit.mask is not None:
            residual = residual * mask_for(edit.mask, residual)
        residual = residual.to(skip.dtype)
        if edit.rows is None:
            edited = edited.add(residual, alpha=weight)
        else:
            edited = edited.index_add(0, edit.rows, residual, alpha=weight)
    return edited


def mask_for(mask: Tensor, like: Tensor) -> Tensor:
    """A mask [B or 1, H, W] at the size, dtype and batch of `like` [B,C,h,w], as [B or 1, 1, h, w].

    Averages over areas, so that all ones stay one and all zeros zero, exactly.  Raises HintError for other shapes.
    """
    if mask.ndim != 3 or mask.numel() == 0:
        raise HintError(
            f"mask: expected [B,H,W], found {list(mask.shape)}; give a mask with a batch and without channels"
        )
    mask = F.interpolate(mask[:, None].to(like.device, like.dtype), like.shape[-2:], mode="area")
    if mask.shape[0] not in (1, like.shape[0]):
        if like.shape[0] % mask.shape[0]:
            raise HintError(
                f"mask: expected a batch of 1 or one that divides {like.shape[0]}, found {mask.shape[0]}; "
                "give one mask, or one for each picture"
            )
        mask = mask.repeat(like.shape[0] // mask.shape[0], 1, 1, 1)
    return mask


def is_active(sigma: float, start_sigma: float, end_sigma: float) -> bool:
    """Whether a step at noise level `sigma` lies in the half-open range end < sigma <= start.

    Half-open, so that ranges that meet cover each step exactly once (reference/host.md, trap 1).
    """
    return end_sigma < sigma <= start_sigma


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-2]}x{tensor.shape[-1]}"
