"""A tiny diffusers U-Net, tuners with random weights for it, and what every message for bad input must look like."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from scedit_core import CSCTuner, SCTuner, SkipLayout


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter with seeded noise, std 1/sqrt(fan in), so that no zero layer hides an error."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            noise = torch.randn(p.shape, generator=draw)
            p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else 0.1 * noise)
    return module


@pytest.fixture(scope="session")
def fill():
    """`randomise`, for tests."""
    return randomise


@pytest.fixture(scope="session")
def save_detector():
    """`save_detector(kind, folder)` of tiny_detectors.py."""
    place = Path(__file__).with_name("tiny_detectors.py")
    spec = importlib.util.spec_from_file_location(place.stem, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.save_detector


@pytest.fixture(scope="session")
def tiny_unet():
    """A diffusers U-Net with 3 levels (32, 64, 64 channels) and 9 skips, frozen; 16x16 latents, text width 24."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=24,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return unet.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_layout(tiny_unet):
    return SkipLayout.from_diffusers(tiny_unet.config)


@pytest.fixture
def inputs():
    """A batch of 2 for the tiny U-Net, as its positional arguments."""
    draw = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 4, 16, 16, generator=draw)
    return noisy, torch.tensor([40, 700]), torch.randn(2, 5, 24, generator=draw)


@pytest.fixture
def hint():
    """A hint image [1,3,128,128] in 0..1, 8 times the latent's size."""
    return torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def make_sc(tiny_layout):
    """An SC-Tuner for the tiny U-Net with random weights."""

    def make(seed: int = 3, layout: SkipLayout = tiny_layout, **options) -> SCTuner:
        return randomise(SCTuner(layout, **options), seed)

    return make


@pytest.fixture
def make_csc(tiny_layout):
    """A CSC-Tuner for the tiny U-Net with random weights."""

    def make(seed: int = 4, layout: SkipLayout = tiny_layout, **options) -> CSCTuner:
        return randomise(CSCTuner(layout, **options), seed)

    return make


@pytest.fixture
def one_sentence():
    """Check a message: at most 500 characters that name what was expected and what was found.

    One line, or a line with a command to copy below it, and the reason in brackets below that.
    """

    def check(raised: pytest.ExceptionInfo, *words: str) -> None:
        message = str(raised.value)
        _, *below = message.split("\n")
        assert not below or (below[0].startswith("python -m pip install ") and below[1][0] + below[1][-1] == "()")
        assert len(message) <= 500, message
        for word in ("expected", "found", ";", *words):
            assert word in message, f"{word!r} is missing from: {message}"

    return check
