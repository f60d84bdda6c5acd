"""The U-Nets that the benchmarks train tuners for, at the size at which each is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

diffusers.utils.logging.set_verbosity_error()  # it warns at every cast to bfloat16

_SD = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@dataclass(frozen=True)
class Model:
    """A U-Net's config and the size of the pictures [pixels] that it was made for."""

    title: str
    side: int
    config: dict[str, Any]

    def build(self) -> UNet2DConditionModel:
        """The U-Net with random weights, frozen, in the default dtype on the default device."""
        return UNet2DConditionModel(sample_size=self.side // 8, **self.config).requires_grad_(False).eval()

    def tiny(self) -> Model:
        """The same blocks with a tenth of the channels, for small pictures."""
        widths = tuple(width // 10 for width in self.config["block_out_channels"])
        heads = self.config["attention_head_dim"]
        few = {"block_out_channels": widths, "attention_head_dim": 4 if isinstance(heads, int) else (2,) * len(widths)}
        if "transformer_layers_per_block" in self.config:
            few["transformer_layers_per_block"] = 1
        return replace(self, title=f"{self.title}, tiny", side=128, config=self.config | few)

    def inputs(self, batch: int, device: torch.device) -> tuple[dict[str, Any], Tensor]:
        """Keyword arguments of one forward of the U-Net, without conditions, and a hint [B,3,side,side]."""
        sizes = {"device": device, "dtype": torch.bfloat16}
        values = {
            "sample": torch.randn(batch, 4, self.side // 8, self.side // 8, **sizes),
            "timestep": torch.zeros(batch, device=device, dtype=torch.long),
            "encoder_hidden_states": torch.randn(batch, 77, self.config["cross_attention_dim"], **sizes),
        }
        if "addition_embed_type" in self.config:
            values["added_cond_kwargs"] = {
                "text_embeds": torch.randn(batch, 1280, **sizes),
                "time_ids": torch.full((batch, 6), float(self.side), **sizes),
            }
        return values, torch.rand(batch, 3, self.side, self.side, **sizes)


MODELS = {
    "sd15": Model("SD 1.5", 512, _SD | {"attention_head_dim": 8, "cross_attention_dim": 768}),
    "sd21": Model(
        "SD 2.1",
        768,
        _SD | {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True, "cross_attention_dim": 1024},
    ),
    "sdxl": Model("SDXL", 1024, _SDXL),
}
