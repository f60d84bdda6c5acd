"""The autoencoder of the embedded base: AutoencoderTiny, 8x downsampling, 4 latent channels."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from .budget import TimedStage
from .pictures import clutter, rendered

WIDTH = 32
PEAK_LR = 1e-3
BATCH = 16
LATENT_NOISE = 0.05


def build_vae() -> AutoencoderTiny:
    """A fresh AutoencoderTiny: images -1..1 [B,3,H,W] to latents of about unit variance [B,4,H/8,W/8]."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(1, 2, 3, 3),
        num_decoder_blocks=(3, 3, 2, 1),
        latent_channels=4,
        scaling_factor=1.0,
        force_upcast=False,
    )


def to_model(images: np.ndarray) -> torch.Tensor:
    """uint8 images [B,H,W,3] to float -1..1 [B,3,H,W], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(vae: AutoencoderTiny, images: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of uint8 images [B,H,W,3]."""
    with torch.no_grad():
        x = to_model(images)
        y = vae.decoder(vae.encoder(x)).clamp(-1, 1)
    return -10 * math.log10(((y - x) / 2).square().mean().item())


def train_vae(folder: Path, minutes: float, seed: int = 1) -> AutoencoderTiny:
    """Train for `minutes` in all, resuming from `folder`; returns the averaged (EMA) model in float32."""
    torch.manual_seed(seed)
    vae = build_vae().to(memory_format=torch.channels_last)
    average = copy.deepcopy(vae).requires_grad_(False)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-3)
    stage = TimedStage("vae", folder, minutes, {"vae": vae, "average": average, "optimizer": optimizer})
    if stage.done >= 1:
        return average
    images = np.concatenate([rendered(12000, seed)[0], rendered(2500, seed + 1, "lantern")[0], clutter(400, seed + 2)])
    rng = np.random.default_rng((seed, stage.step))
    stage.start_clock()
    while stage.done < 1:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate(PEAK_LR)
        batch = images[rng.integers(0, len(images), BATCH)]
        if rng.random() < 0.5:
            batch = batch[:, :, ::-1]
        x = to_model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encoder(x)
            y = vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        y, latents = y.float(), latents.float()
        spread = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
        slopes = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        loss = F.l1_loss(y, x) + 4 * F.mse_loss(y, x) + slopes + 0.05 * spread
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            keep = min(0.998, stage.step / (stage.step + 10))
            for slow, fast in zip(average.parameters(), vae.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        stage.tick(BATCH, loss.item())
    stage.save()
    held = rendered(64, seed + 100, held_out=True)[0]
    print(f"vae: {psnr(average, held):.1f} dB on held-out scenes", flush=True)
    return average
