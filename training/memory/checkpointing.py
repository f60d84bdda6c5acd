"""Decoder blocks and tuners that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from contextvars import ContextVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scedit_core import CSCTuner, SCTuner
from scedit_core.tuners import HintEncoder, SkipAdapter


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


def checkpoint_adapters(tuner: SCTuner | CSCTuner) -> None:
    """Recompute each adapter of `tuner` from the skip that it reads.  In place.

    It would keep its hidden features before and after the GELU, each as large as the skip, and, trained in float32
    under a U-Net in half precision, a copy of its weights.  It is a hundredth of a step's work (benchmarks/NOTES.md).
    """
    for adapter in tuner.tuners.values():
        adapter.__class__ = RecomputedAdapter


def checkpoint_hint_encoder(tuner: CSCTuner) -> None:
    """Recompute the hint encoder of `tuner`, which works at the hint's full size, from the hint.  In place."""
    tuner.hint.__class__ = RecomputedHintEncoder


_within = ContextVar("within", default=False)  # what is recomputed anyhow


class RecomputedAdapter(SkipAdapter):
    """An adapter that keeps its input only."""

    def forward(self, z: Tensor) -> Tensor:
        """See SkipAdapter."""
        if _within.get():
            return super().forward(z)
        return checkpoint(super().forward, z, use_reentrant=False, preserve_rng_state=False)


class RecomputedHintEncoder(HintEncoder):
    """A hint encoder that keeps the hint and its features only."""

    def forward(self, hint: Tensor, levels: int | None = None) -> list[Tensor]:
        """See HintEncoder."""
        return checkpoint(super().forward, hint, levels, use_reentrant=False, preserve_rng_state=False)


def _recomputed(module: nn.Module, *args):
    run, given = module, getattr(module, "edit_input", None)
    if given is not None:
        (edit, features), module.edit_input = given, None

        def run(x, temb, *features):
            before = _within.set(True)
            try:
                x = edit(x, *features)
            finally:
                _within.reset(before)
            return module(x, temb)

        args = (*args, *features)  # not by closure, so that what is kept is known to autograd
    # a U-Net in eval mode draws no random numbers, so there is no state of them to save
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=module.training)
