"""The authors' packages beside ours: scepter with its whole small U-Net and tuners, and ms-swift on diffusers.

Where a package is not installed, what needs it is skipped, and the summary says so in its last lines.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from scedit_core import SkipLayout
from scedit_core.editing import Edit, edit_skip

_WIDTH, _TEXT_WIDTH, _LATENT = 32, 64, 16
_MISSING: dict[str, str] = {}


def _reference(package: str, *modules: str) -> None:
    """Import the authors' modules, or skip the test and remember to say so at the end of the run."""
    if not hasattr(importlib, "find_loader"):  # scepter 1.4.1 imports this name, which Python 3.12 removed
        importlib.find_loader = importlib.util.find_spec
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a package that breaks on another's new version is as good as missing
            _MISSING[package] = str(error)
            pytest.skip(f"{package} cannot be imported ({error}): nothing was compared with it")


def pytest_terminal_summary(terminalreporter) -> None:
    for package, reason in _MISSING.items():
        terminalreporter.write_line(
            f"NOT COMPARED with {package}, which cannot be imported ({reason}); "
            "install requirements/reference.txt with --no-deps",
            red=True,
            bold=True,
        )


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter with seeded noise, std 1/sqrt(fan in), norms around one: no zero layer hides an error."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=draw) / p[0].numel() ** 0.5)
            else:
                p.copy_(torch.randn(p.shape, generator=draw) * 0.1 + (name.endswith("weight")))
    return module.eval().requires_grad_(False)


class _EditedSkip(nn.Module):
    """Stands where the authors' U-Net has the tuner of block b, and edits the skip with ours."""

    def __init__(self, b: int, edits: list[Edit]) -> None:
        super().__init__()
        self.b, self.edits = b, edits

    def forward(self, skip: Tensor) -> Tensor:
        return edit_skip(self.b, skip, self.edits)


@dataclass
class AuthorsUNet:
    """Their U-Net with random weights, fixed inputs, and both kinds of tuner to put into it."""

    unet: nn.Module
    layout: SkipLayout
    inputs: dict = field(default_factory=dict)

    def sc_tuner(self, ratio: float = 1.0, blocks=None, seed: int = 1) -> nn.ModuleList:
        """Their SC-Tuner: one SCTuner for each block, Identity where a block is left untouched."""
        from scepter.modules.model.registry import TUNERS

        tuner = nn.ModuleList()
        for b, channels in enumerate(self.layout.channels):
            if blocks is not None and b not in blocks:
                tuner.append(nn.Identity())
                continue
            length = int(channels * ratio)
            config = _config(NAME="SCTuner", DIM=channels, TUNER_LENGTH=length, TUNER_NAME="SCEAdapter")
            tuner.append(TUNERS.build(config, logger=None))
        return randomise(tuner, seed)

    def csc_tuner(self, kernel: int = 3, scale: float = 1.0, ratio: float = 1.0, seed: int = 2) -> nn.Module:
        """Their Controllable SC-Tuner, with hint encoder."""
        from scepter.modules.model.registry import TUNERS

        config = _config(
            NAME="CSCTuners",
            INPUT_BLOCK_CHANS=self.unet._input_block_chans,
            INPUT_DOWN_FLAG=self.unet._input_down_flag,
            PRE_HINT_IN_CHANNELS=3,
            PRE_HINT_OUT_CHANNELS=256,
            PRE_HINT_DIM_RATIO=1.0,
            DENSE_HINT_KERNAL=kernel,
            DOWN_RATIO=ratio,
            SCALE=scale,
            SC_TUNER_CFG={"NAME": "SCTuner", "TUNER_NAME": "SCEAdapter"},
        )
        return randomise(TUNERS.build(config, logger=None), seed)

    def hint(self, seed: int = 5) -> Tensor:
        """A hint image [2,3,8h,8w] in 0..1."""
        draw = torch.Generator().manual_seed(seed)
        return torch.rand(2, 3, 8 * _LATENT, 8 * _LATENT, generator=draw)

    @torch.no_grad()
    def theirs(self, sc=None, controls=(), hints=(), **scales) -> Tensor:
        """The output [2,4,16,16] with their tuners in their places."""
        plain = nn.ModuleList(nn.Identity() for _ in self.layout.channels)
        self.unet.lsc_identity = plain if sc is None else sc
        self.unet.control_blocks = nn.ModuleList(controls) if controls else None
        out = self.unet(**self.inputs, hint=list(hints) if controls else None, **scales)
        self.unet.lsc_identity, self.unet.control_blocks = plain, None
        return out

    @torch.no_grad()
    def ours(self, edits: list[Edit]) -> Tensor:
        """The output [2,4,16,16] with our edits of the same skips."""
        return self.theirs(nn.ModuleList(_EditedSkip(b, edits) for b in range(len(self.layout))))


def _config(**values):
    from scepter.modules.utils.config import Config

    return Config(cfg_dict=values, load=False)


def _authors_unet(multipliers: list[int]) -> AuthorsUNet:
    _reference(
        "scepter",
        "scepter.modules.model.backbone.unet.unet_module",
        "scepter.modules.model.tuner.sce.scetuning",
    )
    from scepter.modules.model.registry import BACKBONES

    config = _config(
        NAME="DiffusionUNet",
        IN_CHANNELS=4,
        OUT_CHANNELS=4,
        NUM_RES_BLOCKS=2,
        MODEL_CHANNELS=_WIDTH,
        ATTENTION_RESOLUTIONS=[4, 2, 1],
        NUM_HEADS=4,
        CONTEXT_DIM=_TEXT_WIDTH,
        CHANNEL_MULT=multipliers,
        USE_CHECKPOINT=False,
    )
    unet = randomise(BACKBONES.build(config, logger=None), 0)
    layout = SkipLayout.from_host(
        {"model_channels": _WIDTH, "channel_mult": multipliers, "num_res_blocks": 2, "context_dim": _TEXT_WIDTH}
    )
    assert layout.channels == tuple(reversed(unet._input_block_chans))
    draw = torch.Generator().manual_seed(7)
    inputs = {
        "x": torch.randn(2, 4, _LATENT, _LATENT, generator=draw),
        "t": torch.tensor([13, 801]),
        "cond": {"crossattn": torch.randn(2, 9, _TEXT_WIDTH, generator=draw)},
    }
    return AuthorsUNet(unet, layout, inputs)


@pytest.fixture(scope="session")
def authors() -> AuthorsUNet:
    """Their U-Net in the shape of SD 1.5 and 2.1 at a tenth of the width: 12 skips."""
    return _authors_unet([1, 2, 4, 4])


@pytest.fixture(scope="session")
def authors_xl() -> AuthorsUNet:
    """Their U-Net with the levels of SDXL at a tenth of the width: 9 skips."""
    return _authors_unet([1, 2, 4])


@pytest.fixture(scope="session")
def swift():
    """The module `swift.tuners` of ms-swift."""
    _reference("ms-swift", "swift.tuners")
    return importlib.import_module("swift.tuners")


@pytest.fixture(scope="session")
def diffusers_unet() -> nn.Module:
    """A diffusers U-Net with random weights and the levels of SDXL at a twentieth of the width: 9 skips."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=_LATENT,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return randomise(unet, 0)


@pytest.fixture(scope="session")
def diffusers_inputs() -> tuple:
    """A batch of 2 for `diffusers_unet`, as its positional arguments."""
    draw = torch.Generator().manual_seed(7)
    noisy = torch.randn(2, 4, _LATENT, _LATENT, generator=draw)
    return noisy, torch.tensor([13, 801]), torch.randn(2, 9, _TEXT_WIDTH, generator=draw)


@pytest.fixture(scope="session")
def fill():
    """`randomise`, for tests."""
    return randomise
