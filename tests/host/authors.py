"""The authors' U-Net and tuners (package scepter), in place of the host's U-Net inside the host's own model."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch
from small_model import TEXT_WIDTH, WIDTH, randomise
from torch import Tensor, nn


def _scepter():
    if not hasattr(importlib, "find_loader"):  # scepter 1.4.1 imports this name, which Python 3.12 removed
        importlib.find_loader = importlib.util.find_spec
    try:
        importlib.import_module("scepter.modules.model.backbone.unet.unet_module")
        importlib.import_module("scepter.modules.model.tuner.sce.scetuning")
        from scepter.modules.model.registry import BACKBONES, TUNERS
        from scepter.modules.utils.config import Config
    except ImportError as error:
        pytest.skip(f"NOT COMPARED with scepter, which cannot be imported ({error}); see requirements/reference.txt")
    return BACKBONES, TUNERS, lambda **values: Config(cfg_dict=values, load=False)


class AuthorsUNet(nn.Module):
    """Their whole U-Net with their tuners in their places, called as the host calls its own."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet, self.dtype = unet, torch.float32
        self.hints: list[Tensor] = []
        self.scales: dict[str, float] = {}

    def forward(self, x, timesteps=None, context=None, y=None, control=None, transformer_options=None, **_):
        """x [B,4,h,w], timesteps [B], context [B,L,D] -> [B,4,h,w]."""
        hints = [hint.expand(x.shape[0], -1, -1, -1) for hint in self.hints]
        return self.unet(x, timesteps, {"crossattn": context}, hint=hints or None, **self.scales)


def authors_unet(seed: int = 0) -> AuthorsUNet:
    """Their U-Net in the shape of the small SD 1.5 model."""
    backbones, _, config = _scepter()
    options = {"IN_CHANNELS": 4, "OUT_CHANNELS": 4, "NUM_RES_BLOCKS": 2, "MODEL_CHANNELS": WIDTH, "NUM_HEADS": 4}
    options |= {"ATTENTION_RESOLUTIONS": [4, 2, 1], "CHANNEL_MULT": [1, 2, 4, 4], "CONTEXT_DIM": TEXT_WIDTH}
    unet = backbones.build(config(NAME="DiffusionUNet", USE_CHECKPOINT=False, **options), logger=None)
    return AuthorsUNet(randomise(unet, seed))


def authors_sc(channels: tuple[int, ...], seed: int) -> nn.ModuleList:
    """Their SC-Tuner for skips of these channels, in block order."""
    _, tuners, config = _scepter()
    each = [
        tuners.build(config(NAME="SCTuner", DIM=c, TUNER_LENGTH=c, TUNER_NAME="SCEAdapter"), logger=None)
        for c in channels
    ]
    return randomise(nn.ModuleList(each), seed)


def authors_csc(unet: AuthorsUNet, seed: int, kernel: int = 3) -> nn.Module:
    """Their Controllable SC-Tuner for their U-Net."""
    _, tuners, config = _scepter()
    options = {"INPUT_BLOCK_CHANS": unet.unet._input_block_chans, "INPUT_DOWN_FLAG": unet.unet._input_down_flag}
    options |= {"PRE_HINT_IN_CHANNELS": 3, "PRE_HINT_OUT_CHANNELS": 256, "PRE_HINT_DIM_RATIO": 1.0}
    options |= {"DENSE_HINT_KERNAL": kernel, "DOWN_RATIO": 1.0, "SCALE": 1.0}
    options["SC_TUNER_CFG"] = {"NAME": "SCTuner", "TUNER_NAME": "SCEAdapter"}
    return randomise(tuners.build(config(NAME="CSCTuners", **options), logger=None), seed)
