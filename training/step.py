"""One training step as a module, so that gradients are synchronised by wrapping it whole."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from scedit_core import CSCTuner, SCTuner
from scedit_core.diffusers import attach


class TrainingStep(nn.Module):
    """The frozen U-Net with the tuner attached.

    Nothing trainable feeds the encoder or the middle block, so autograd keeps no graph of them: that is SCEdit's
    saving, and it can be lost without a sign (reference/training.md).  Every forward checks it.

    dtype: what the U-Net computes in, where that is not what it is stored in.
    """

    def __init__(self, unet: nn.Module, tuner: SCTuner | CSCTuner, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.unet, self.tuner = unet, tuner
        self.dtype = unet.dtype if dtype is None else dtype

    def forward(self, noisy: Tensor, timesteps: Tensor, hints: Tensor | None, **inputs: Any) -> Tensor:
        """noisy [B,4,h,w], timesteps [B], hints [B,3,8h,8w] or None, and the U-Net's inputs from the text as
        `BaseModel.unet_inputs` gives them -> prediction [B,4,h,w].
        """
        if hints is not None:
            # the hint encoder's convolutions at full size then need no copies: a fifth less time (benchmarks/NOTES.md)
            hints = hints.to(memory_format=torch.channels_last)
        with encoder_without_graph(self.unet), attach(self.unet, [(self.tuner, 1.0, hints)]):
            return self.unet(noisy.to(self.dtype), timesteps, return_dict=False, **inputs)[0]


@contextlib.contextmanager
def encoder_without_graph(unet: nn.Module):
    """While open, a forward raises RuntimeError if the middle block's output or a skip belongs to a graph.

    To be entered before tuners are attached, so that it sees the unedited skips.
    """

    def check(what: str, tensors: tuple[Tensor, ...]) -> None:
        if any(t.requires_grad for t in tensors):
            raise RuntimeError(
                f"training step: expected no graph before the decoder, found {what} with requires_grad; "
                "do not set requires_grad on the U-Net or its input, nor checkpoint the encoder with re-entry"
            )

    def after_middle(_module, _args, output) -> None:
        check("the middle block's output", (output if isinstance(output, torch.Tensor) else output[0],))

    def before_up(_module, _args, kwargs) -> None:
        check("a skip", kwargs["res_hidden_states_tuple"])

    handles = [unet.mid_block.register_forward_hook(after_middle)]
    handles += [unet.up_blocks[0].register_forward_pre_hook(before_up, with_kwargs=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
