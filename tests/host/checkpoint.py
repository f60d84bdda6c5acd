"""Files of the true SD 1.5 shape with random weights: a checkpoint that the host loads, and tuners for it."""

from __future__ import annotations

from pathlib import Path

import comfy.ops
import safetensors.torch
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_heads": 8,
    "use_spatial_transformer": True,
    "legacy": False,
    "context_dim": 768,
    "channel_mult": (1, 2, 4, 4),
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1] * 6 + [0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
}
_VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
_VAE |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
_TEXT = {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_TEXT |= {"num_attention_heads": 12, "max_position_embeddings": 77, "projection_dim": 768}


class Noise:
    """Seeded noise out of one pool, since drawing a billion numbers one by one takes too long."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def like(self, name: str, shape: torch.Size) -> Tensor:
        """Weights of std 1/sqrt(fan in), biases of 0.02, norms around one."""
        size = shape.numel()
        flat = self.pool.repeat(-(-size // len(self.pool)))[:size].reshape(shape)
        if len(shape) > 1:
            return flat * shape[1:].numel() ** -0.5
        return flat * 0.02 + float(name.endswith("weight"))


def random_checkpoint(path: Path) -> Path:
    """Write an SD 1.5 checkpoint of 2.1 GB in float16."""
    with torch.device("meta"):
        unet = UNetModel(**UNET, operations=comfy.ops.disable_weight_init)
        vae = AutoencoderKL(ddconfig=_VAE, embed_dim=4)
        text = CLIPTextModel(CLIPTextConfig(**_TEXT))
    noise = Noise(0, torch.float16)
    prefixes = {"model.diffusion_model.": unet, "first_stage_model.": vae, "cond_stage_model.transformer.": text}
    state = {}
    for prefix, module in prefixes.items():
        for name, p in module.named_parameters():
            if module is text and not name.startswith("text_model."):
                name = "text_model." + name  # newer versions of transformers leave it out
            state[prefix + name] = noise.like(name, p.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path)
    return path


def random_tuner(pack, path: Path, kind: str, seed: int, **options) -> Path:
    """Write a tuner of kind "sc" or "csc" for it, in float16."""
    layout = pack.core.SkipLayout.from_host(UNET)
    tuner = {"sc": pack.core.SCTuner, "csc": pack.core.CSCTuner}[kind](layout, device="meta", **options)
    noise = Noise(seed, torch.float16)
    tuner.load_state_dict({k: noise.like(k, v.shape) for k, v in tuner.state_dict().items()}, assign=True)
    return pack.core.save_tuner(tuner, path)
