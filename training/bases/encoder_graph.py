"""The encoder of a diffusers U-Net: its skips alone, and the check that nothing before the decoder keeps a graph.

Nothing trainable feeds the encoder or the middle block, so autograd keeps no graph of them: that is SCEdit's saving,
and it can be lost without a sign.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn


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


class _Enough(Exception):
    """Raised inside a forward when all that is wanted of it is there."""


def decoder_of(unet: nn.Module) -> list[nn.Module]:
    """The modules that `encoder_skips` does not run."""
    return [unet.mid_block, unet.up_blocks, unet.conv_norm_out, unet.conv_out]


def encoder_skips(unet: nn.Module, noisy: Tensor, timesteps: Tensor, **inputs) -> list[Tensor]:
    """The skips [B,C,h,w] of a forward, in block order (0 deepest), which ends before the middle block."""
    found: list[Tensor] = []

    def stop(_module, _args) -> None:
        raise _Enough

    handles = [unet.conv_in.register_forward_hook(lambda _module, _args, output: found.append(output))]
    handles += [
        block.register_forward_hook(lambda _m, _a, output: found.extend(output[1])) for block in unet.down_blocks
    ]
    handles += [unet.mid_block.register_forward_pre_hook(stop)]
    try:
        with contextlib.suppress(_Enough):
            unet(noisy, timesteps, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[::-1]
