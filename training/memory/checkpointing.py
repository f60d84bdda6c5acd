"""Decoder blocks and hint encoders that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scedit_core import CSCTuner
from scedit_core.tuners import HintEncoder


def checkpoint_decoder(unet: nn.Module) -> None:
    """Recompute each residual and each transformer block of the up blocks of a UNet2DConditionModel.

    Without re-entry, which alone needs no requires_grad on the block's input.  The encoder and the middle block keep
    no graph, so there is nothing to save in them; the tuners work in hooks before the up blocks, outside of what is
    recomputed.
    """
    for part in unet.up_blocks.modules():
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = True
            part._gradient_checkpointing_func = _recomputed


def checkpoint_hint_encoder(tuner: CSCTuner) -> None:
    """Recompute the hint encoder of `tuner`, which works at the hint's full size, from the hint.  In place."""
    tuner.hint.__class__ = RecomputedHintEncoder


class RecomputedHintEncoder(HintEncoder):
    """A hint encoder that keeps the hint and its features only."""

    def forward(self, hint: Tensor, levels: int | None = None) -> list[Tensor]:
        """See HintEncoder."""
        return checkpoint(super().forward, hint, levels, use_reentrant=False, preserve_rng_state=False)


def _recomputed(module: nn.Module, *args):
    # a U-Net in eval mode draws no random numbers, so there is no state of them to save
    return checkpoint(module, *args, use_reentrant=False, preserve_rng_state=module.training)
