"""torch.compile on the blocks of both halves of the U-Net."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import torch
from torch import nn

from scedit_core.errors import ConfigError

from ..config import MemoryConfig

LONG_RUN = 500  # updates from which on a minute or two of compiling is won back
_FLOAT8 = (8, 9)  # the compute capability from which on Triton casts float8_e4m3fn


def with_compiling_settled(memory: MemoryConfig, device: torch.device, steps: int) -> MemoryConfig:
    """`memory` with `compile` as a yes or a no for a run of `steps` updates on `device`.

    "auto" compiles runs of at least LONG_RUN updates on a CUDA device of capability 8.0 or newer, under Linux with
    Triton and the C compiler that it calls.  Raises ConfigError where compiling 8-bit weights is asked for on a device
    that cannot.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    too_old = memory.fp8 and capability is not None and capability < _FLOAT8
    if memory.compile is True and too_old:
        raise ConfigError(
            f"memory.compile: expected a GPU of compute capability 8.9 or newer with memory.fp8, found "
            f"{capability[0]}.{capability[1]}; set memory.compile or memory.fp8 to false"
        )
    wanted = memory.compile
    if wanted == "auto":
        tools = importlib.util.find_spec("triton") and any(map(shutil.which, ("cc", "gcc", "clang")))
        works = capability is not None and capability >= (8, 0) and not too_old and sys.platform == "linux"
        wanted = bool(works and tools and steps >= LONG_RUN)
        if wanted:
            torch._dynamo.config.suppress_errors = True  # what was not asked for must not end a run: eager then
    return memory.model_copy(update={"compile": wanted})


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
        for resnet in block.resnets:
            resnet.__dict__.pop("edit_input", None)  # of checkpointing; a function of each step would compile again
        block.forward = torch.compile(block.forward, backend=backend)
