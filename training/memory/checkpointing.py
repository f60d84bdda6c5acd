"""Decoder blocks that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from torch import nn
from torch.utils.checkpoint import checkpoint

from scedit_core.fitting.recomputing import within


def checkpoint_decoder(unet: nn.Module) -> None:
    """Recompute each residual and each transformer block of the up blocks of a UNet2DConditionModel.

    Without re-entry, which alone needs no requires_grad on the block's input.  The encoder and the middle block keep
    no graph, so there is nothing to save in them.  A residual block edits the skip in its input itself, so that of a
    skip only what the encoder gave is kept: otherwise a style would keep it twice, before and after the edit.
    """
    for part in unet.up_blocks.modules():
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = True
            part._gradient_checkpointing_func = _recomputed
    for block in unet.up_blocks:
        for resnet in block.resnets:
            resnet.edit_input = None  # for scedit_core.diffusers.attach to set


def _recomputed(module: nn.Module, *args):
    run, given = module, getattr(module, "edit_input", None)
    if given is not None:
        (edit, features), module.edit_input = given, None

        def run(x, temb, *features):
            before = within.set(True)
            try:
                x = edit(x, *features)
            finally:
                within.reset(before)
            return module(x, temb)

        args = (*args, *features)  # not by closure, so that what is kept is known to autograd
    # a U-Net in eval mode draws no random numbers, so there is no state of them to save
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=module.training)
