"""torch.compile on the blocks of both halves of the U-Net."""

from __future__ import annotations

import torch
from torch import nn


def compile_blocks(unet: nn.Module, backend: str = "inductor") -> None:
    """Compile the forward of every down, middle and up block of a UNet2DConditionModel.

    Blocks, not the whole: the tuners and the check that the encoder has no graph are hooks between them, and stay
    eager.  A hook that torch.compile saw would be compiled again in every step, since each step sets its own.
    """
    # blocks of one class share their code, and each bucket adds a shape: the default of 8 is soon used up, after which
    # torch would go on without compiling
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before torch 2.6
    setattr(config, limit, max(getattr(config, limit), 64))
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        block.forward = torch.compile(block.forward, backend=backend)
