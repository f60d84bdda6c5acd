"""The autoencoder of the embedded base: AutoencoderTiny, 8x downsampling, 4 latent channels."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from .pictures import clutter, rendered
from .stage import Stage, follow
from .styles import TUNER_STYLES

WIDTH = 32
PEAK_LR = 8e-4
BATCH = 16
NEW_PICTURES = 1800  # steps after which others are drawn
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


def train_vae(folder: Path, steps: int, decoder_steps: int, start: Path | None, seed: int = 1) -> AutoencoderTiny:
    """Train both halves for `steps`, then the decoder alone, resuming from `folder`.

    start: a folder with weights to begin with, None to begin from nothing.  Returns the running average in float32.
    After the first part the encoder is final, so that a base can be trained while the decoder still learns.
    """
    vae = AutoencoderTiny.from_pretrained(start, torch_dtype=torch.float32) if start else build_vae()
    average = _train("vae", folder, steps, vae, seed)
    if decoder_steps:
        average = _train("decoder", folder, decoder_steps, copy.deepcopy(average), seed + 10)
    return average


def _train(name: str, folder: Path, steps: int, vae: AutoencoderTiny, seed: int) -> AutoencoderTiny:
    torch.manual_seed(seed)
    vae = vae.to(memory_format=torch.channels_last).requires_grad_(True)
    average = copy.deepcopy(vae).requires_grad_(False)
    whole = name == "vae"
    trained = vae if whole else vae.decoder
    optimizer = torch.optim.AdamW(trained.parameters(), lr=PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    stage = Stage(name, folder, steps, {"vae": vae, "average": average, "optimizer": optimizer})
    images = None
    rng = np.random.default_rng((seed, stage.step))
    while not stage.finished:
        if images is None or stage.step % NEW_PICTURES == 0:
            images = _pictures(seed * 1_000_000 + stage.step)
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate(PEAK_LR)
        batch = images[rng.integers(0, len(images), BATCH)]
        if rng.random() < 0.5:
            batch = batch[:, :, ::-1]
        x = to_model(batch)
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(whole):
            latents = vae.encoder(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        y, latents = y.float(), latents.float()
        spread = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
        slopes = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        loss = F.l1_loss(y, x) + 8 * F.mse_loss(y, x) + 0.5 * slopes + 0.05 * spread
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        follow(average, vae, stage.step)
        stage.tick(loss.item())
    return average


def _pictures(seed: int) -> np.ndarray:
    """Drawn scenes of the whole family, of each tuner's style, and a little clutter."""
    parts = [rendered(2400, seed)[0], rendered(6400, seed + 1, "family")[0], clutter(320, seed + 2)]
    parts += [rendered(640, seed + 3 + i, style)[0] for i, style in enumerate(TUNER_STYLES)]
    return np.concatenate(parts)
