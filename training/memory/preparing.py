"""Fit the frozen U-Net and the tuner into memory, as the section `memory` of the configuration says."""

from __future__ import annotations

import torch
from torch import nn

from scedit_core import CSCTuner, SCTuner
from scedit_core.fitting.recomputing import recompute

from ..config import MemoryConfig
from .checkpointing import checkpoint_decoder
from .compiling import compile_blocks
from .float8 import store_in_8_bits
from .frozen_layers import freeze_layers, freeze_output_layers


def prepare_unet(unet: nn.Module, memory: MemoryConfig, compute_dtype: torch.dtype) -> None:
    """Change `unet`, a frozen diffusers UNet2DConditionModel in `compute_dtype`, in place.  To be called once.

    The encoder and the middle block keep no graph, so only the decoder is changed, except for the weights' storage.
    With frozen layers and checkpointing the output and all gradients stay equal, bit for bit; 8-bit weights and
    compiling change them by rounding.  Raises RuntimeError where a parameter of the U-Net is trainable.
    """
    if memory.frozen_convolutions:
        freeze_layers(unet.up_blocks)
        freeze_output_layers(unet)
    if memory.fp8:
        store_in_8_bits(unet)
    if memory.checkpointing:
        checkpoint_decoder(unet)
    if memory.compile is True:  # "auto" is for with_compiling_settled to decide
        compile_blocks(unet)


def prepare_tuner(tuner: SCTuner | CSCTuner, memory: MemoryConfig) -> None:
    """Change `tuner` in place; outputs and gradients stay equal, bit for bit."""
    if memory.checkpointing or memory.frozen_convolutions:
        recompute(tuner, hints=memory.checkpointing)
