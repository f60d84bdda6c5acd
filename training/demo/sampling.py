"""Pictures from the embedded base, with tuners attached."""

from __future__ import annotations

import torch
from torch import Tensor

from scedit_core import CSCTuner, SCTuner
from scedit_core.diffusers import attach

from ..bases.base_model import BaseModel
from .scenes import SIZE

STEPS = 25
# Guidance goes away from what the base draws without a prompt, towards what it draws by itself for this one: lines and
# natural grounds.  At 4 that undoes part of a style (benchmarks/NOTES.md), and prompts are followed without it.
GUIDANCE = 1.5
BATCH = 12


def sample(
    base: BaseModel,
    prompts: list[str],
    seed: int,
    tuners: list[tuple[SCTuner | CSCTuner, float]] = (),
    hints: Tensor | None = None,
) -> Tensor:
    """Pictures [N,3,128,128] in 0..1 for N prompts.  The i-th has the noise of `seed` + i, whatever the tuners.

    hints: [N,3,128,128] in 0..1, for the CSC-Tuners among `tuners`, each given with its strength.
    """
    pictures = []
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
        side = SIZE // 8
        noise = torch.cat([torch.randn(1, 4, side, side, generator=g) for g in generators])
        attached = [
            (t, strength, hints[first : first + BATCH] if isinstance(t, CSCTuner) else None) for t, strength in tuners
        ]
        with attach(base.unet, attached):
            images = base.pipeline(
                part,
                height=SIZE,
                width=SIZE,
                latents=noise.to(base.unet.dtype),
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                output_type="pt",
            ).images
        pictures.append(images.float().cpu())
    return torch.cat(pictures)


def reconstruct(base: BaseModel, pictures: Tensor) -> Tensor:
    """Pictures [N,3,H,W] in 0..1 through the autoencoder and back."""
    with torch.no_grad():
        return base.decode(base.encode_images(pictures * 2 - 1)).float().cpu()
