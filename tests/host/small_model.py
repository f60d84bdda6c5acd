"""Small real models for the host: true shapes of U-Net at a tenth of the width, filled with seeded noise."""

from __future__ import annotations

import comfy.controlnet
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch
from torch import Tensor, nn

WIDTH, TEXT_WIDTH, STEPS = 32, 64, 3
_SD = {"channel_mult": (1, 2, 4, 4), "num_res_blocks": [2, 2, 2, 2], "transformer_depth": [1] * 6 + [0, 0]}
_SD |= {"transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "context_dim": TEXT_WIDTH}
_SDXL = {"channel_mult": (1, 2, 4), "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 1, 1, 2, 2]}
_SDXL |= {"transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "transformer_depth_middle": 2}
_SDXL |= {"context_dim": TEXT_WIDTH, "adm_in_channels": 2816, "num_classes": "sequential"}


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter with seeded noise, std 1/sqrt(fan in), norms around one.

    Hint encoders get 1.65 times that, which SiLU takes away again: else nothing of a hint would come through.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=draw)
            gain = 1.65 if "hint" in name else 1.0
            noise = noise * gain / p[0].numel() ** 0.5 if p.ndim > 1 else noise * 0.1 + name.endswith("weight")
            p.copy_(noise.to(p.dtype))
    return module.eval().requires_grad_(False)


def unet_config(family: str = "sd1", in_channels: int = 4, dtype: torch.dtype = torch.float32) -> dict:
    """A host's U-Net config with the skips of SD 1.5 ("sd1") or SDXL ("sdxl")."""
    shape = dict(_SDXL if family == "sdxl" else _SD)
    return {
        "image_size": 32,
        "in_channels": in_channels,
        "out_channels": 4,
        "model_channels": WIDTH,
        "num_heads": -1 if family == "sdxl" else 4,
        "num_head_channels": 16 if family == "sdxl" else -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": family == "sdxl",
        "legacy": False,
        "dtype": dtype,
        "use_temporal_attention": False,
        **shape,
    }


def small_model(family="sd1", in_channels=4, dtype=torch.float32, compute: torch.dtype | None = None, seed=0, **_):
    """A MODEL of the host: its BaseModel with real weights in `dtype`, computing in `compute` where that differs."""
    supported = comfy.supported_models.SDXL if family == "sdxl" else comfy.supported_models.SD15
    config = supported(unet_config(family, in_channels))
    config.unet_config |= unet_config(family, in_channels, dtype)
    config.manual_cast_dtype = compute
    model = config.get_model({}, "", device=torch.device("cpu"))
    randomise(model.diffusion_model, seed)
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    # How newer hosts load it again, for training.
    patcher.cached_patcher_init = (small_model, (family, in_channels, dtype, compute, seed))
    return patcher


def small_controlnet(seed: int = 11) -> comfy.controlnet.ControlNet:
    """A ControlNet of the host for the small SD 1.5 model."""
    config = unet_config() | {"hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    del config["out_channels"], config["transformer_depth_output"]
    network = randomise(comfy.cldm.cldm.ControlNet(**config), seed)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"), manual_cast_dtype=torch.float32)


def prompt(seed: int, family: str = "sd1", **extras) -> list:
    """A CONDITIONING of random text features."""
    draw = torch.Generator().manual_seed(seed)
    entry = {"pooled_output": torch.randn(1, 1280, generator=draw)} if family == "sdxl" else {}
    return [[torch.randn(1, 7, TEXT_WIDTH, generator=draw), entry | extras]]


def noise_of(batch: int = 1, height: int = 16, width: int = 16, seed: int = 3) -> Tensor:
    """Starting noise [B,4,h,w]."""
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed))


def sample(
    model,
    positive=None,
    negative=None,
    noise: Tensor | None = None,
    steps: int = STEPS,
    sampler: str = "euler",
    scheduler: str = "normal",
    cfg: float = 3.0,
    family: str = "sd1",
    **options,
) -> Tensor:
    """The latent [B,4,h,w] that `comfy.sample` gives."""
    noise = noise_of() if noise is None else noise
    positive = prompt(1, family) if positive is None else positive
    negative = prompt(2, family) if negative is None else negative
    latent = torch.zeros_like(noise)
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, seed=5, disable_pbar=True, **options
    )


def relative(found: Tensor, expected: Tensor) -> float:
    """Distance over the norm of `expected`."""
    return float((found - expected).norm() / expected.norm())


def picture(batch: int = 1, height: int = 128, width: int = 128, channels: int = 3, seed: int = 5) -> Tensor:
    """An IMAGE [B,H,W,C] of noise in 0..1."""
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(seed))


def outputs_of(node, *values):
    """Of a node of the host, whichever of its two schemas it has."""
    execute = getattr(node, "execute", None)
    return execute(*values).args if execute else getattr(node(), node.FUNCTION)(*values)
