"""The embedded base, a diffusers folder with an autoencoder and a text encoder that the host has no loader for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

BASE = Path(__file__).resolve().parents[3] / "demo"


class _UnscaledLatents(comfy.latent_formats.LatentFormat):
    scale_factor = 1.0
    latent_channels = 4


class _EmbeddedBase(comfy.supported_models_base.BASE):
    """What the host wants to know of a model: v-prediction, and a schedule that ends in pure noise."""

    unet_extra_config: ClassVar = {}
    latent_format = _UnscaledLatents
    sampling_settings: ClassVar = {"zsnr": True}

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


def unet_config() -> dict:
    """The host's form of the U-Net's config."""
    theirs = json.loads((BASE / "unet" / "config.json").read_text())
    widths, layers = theirs["block_out_channels"], theirs["layers_per_block"]
    with_attention = [int("CrossAttn" in kind) for kind in theirs["down_block_types"]]
    return {
        "image_size": theirs["sample_size"],
        "in_channels": theirs["in_channels"],
        "out_channels": theirs["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [depth for depth in with_attention for _ in range(layers)],
        "transformer_depth_output": [depth for depth in with_attention for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "num_heads": theirs["attention_head_dim"],  # diffusers' old name for the number of heads
        "num_head_channels": -1,
        "context_dim": theirs["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_temporal_attention": False,
        "legacy": False,
        "dtype": torch.float32,
    }


def load_model() -> comfy.model_patcher.ModelPatcher:
    """The base as the host's MODEL."""
    config = unet_config()
    wrapped = _EmbeddedBase(config)
    wrapped.manual_cast_dtype = None
    model = wrapped.get_model({}, "", device=torch.device("cpu"))
    weights = comfy.utils.load_torch_file(str(BASE / "unet" / "diffusion_pytorch_model.safetensors"))
    names = comfy.utils.unet_to_diffusers(config)
    state = {names[name]: weight.float() for name, weight in weights.items()}
    model.diffusion_model.load_state_dict(state)
    management = comfy.model_management
    return comfy.model_patcher.ModelPatcher(model, management.get_torch_device(), management.unet_offload_device())


class DemoText:
    """Tokenizer and text encoder; what the host's nodes ask of a CLIP."""

    def __init__(self) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer  # here, since it takes the host seconds to start

        self.tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", local_files_only=True)
        self.encoder = encoder.float().eval()

    def encode(self, text: str) -> list:
        """CONDITIONING: states [1,L,D], padded and cut as the pipeline does."""
        tokenizer = self.tokenizer
        ids = tokenizer(
            [text], padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            return [[self.encoder(ids).last_hidden_state, {"pooled_output": None}]]

    def tokenize(self, text: str) -> str:
        """The text itself, which `encode_from_tokens_scheduled` takes."""
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list:
        """CONDITIONING of what `tokenize` gave."""
        return self.encode(tokens)


class DemoVAE:
    """What the host's nodes ask of a VAE: pictures [B,H,W,3] in 0..1 and latents [B,4,H/8,W/8]."""

    def __init__(self) -> None:
        from diffusers import AutoencoderTiny  # here, since it takes the host seconds to start

        network = AutoencoderTiny.from_pretrained(BASE / "vae", local_files_only=True)
        self.network = network.float().eval()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures."""
        with torch.no_grad():
            pictures = self.network.decode(latents.float().cpu()).sample
        return ((pictures + 1) / 2).clamp(0, 1).movedim(1, -1)

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures to latents."""
        with torch.no_grad():
            return self.network.encode(pictures[..., :3].movedim(-1, 1).float().cpu() * 2 - 1).latents
