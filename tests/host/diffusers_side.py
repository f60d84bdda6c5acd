"""The diffusers half of test_trained_tuner: trains and samples in a process without the host.

Run from the pack's root:  python -c THIS_FILE CHECKPOINT CONFIG PROBLEM OUTPUT [CONFIG PROBLEM OUTPUT ...]

CONFIG is the trainer's.  PROBLEM is a safetensors file with start, cond, uncond, sigmas, timesteps, guidance and
perhaps a hint; OUTPUT gets latents with the tuner and without it, images with it, and the latents of a preview.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scedit_core import load_tuner
from scedit_core.diffusers import attach
from training.__main__ import main as trainer
from training.bases.base_model import TextStates
from training.bases.loading import load_base
from training.config_file import load_config
from training.seeing.sampling import preview_scheduler, sample


def euler(base, problem: dict[str, Tensor]) -> Tensor:
    """Euler steps with guidance on a model that predicts epsilon: latents [B,4,h,w] after the last sigma."""
    sigmas, x = problem["sigmas"], problem["start"]
    text = [base.unet_inputs(TextStates(problem[side]), None) for side in ("cond", "uncond")]
    for sigma, following, timestep in zip(sigmas, sigmas[1:], problem["timesteps"], strict=False):
        scaled = x / (sigma**2 + 1).sqrt()
        cond, uncond = (base.unet(scaled, timestep, **inputs).sample for inputs in text)
        x = x + (uncond + problem["guidance"] * (cond - uncond)) * (following - sigma)
    return x


def preview(base, problem: dict[str, Tensor], tuner, config) -> Tensor:
    """Latents [1,4,h,w] as the trainer's previews are drawn."""
    text = TextStates(torch.cat([problem["uncond"], problem["cond"]]))
    steps, guidance = int(problem["preview_steps"]), float(problem["guidance"])
    scheduler = preview_scheduler(base, config.objective)
    return sample(base, scheduler, text, problem["noise"], steps, guidance, tuner, problem.get("hint"))


def main(checkpoint: str, *runs: str) -> None:
    """Train, then sample with the tuner and without it, for each run."""
    base = load_base(checkpoint, tokenizer=Path(checkpoint).with_name("tokenizer"))
    for config, problem_file, output in zip(*[iter(runs)] * 3, strict=True):
        if trainer(["train", config]) != 0:
            raise SystemExit(f"the trainer refused {config}")
        problem, settings = load_file(problem_file), load_config(config)
        tuner = load_tuner(settings.output)
        with torch.no_grad():
            plain = euler(base, problem)
            with attach(base.unet, [(tuner, 1.0, problem.get("hint"))]):
                edited = euler(base, problem)
        drawn = preview(base, problem, tuner, settings)
        save_file({"plain": plain, "edited": edited, "images": base.decode(edited), "preview": drawn}, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
