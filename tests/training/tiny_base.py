"""A tiny random base model in diffusers' folder layout, and a folder of drawn pictures, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from training.demo.language import build_text_encoder, build_tokenizer
from training.demo.pictures import write_pictures


def write_tiny_base(folder: Path, prediction: str = "v_prediction") -> Path:
    """Write a StableDiffusionPipeline with a U-Net of 9 skips of 32 channels; images of 64x64."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "words")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        ),
        text_encoder=build_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            cross_attention_dim=128,
        ),
        scheduler=DDIMScheduler(
            prediction_type=prediction, timestep_spacing="trailing", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def write_drawn_pictures(folder: Path, count: int = 5) -> Path:
    """Write lantern scenes with captions."""
    write_pictures(folder, count, seed=5, style="lantern")
    return folder
