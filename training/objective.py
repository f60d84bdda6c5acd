"""What the model is asked to predict: noise or velocity at a random timestep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import BaseModelError


@dataclass
class Problem:
    """Noisy latents [B,4,h,w], timesteps [B], and the target [B,4,h,w] in float32."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor


def pose_problem(scheduler, latents: Tensor, generator: torch.Generator) -> Problem:
    """Draw timesteps and noise, and mix them in, as the base model's `scheduler` says.

    Raises BaseModelError for a prediction type other than epsilon and v_prediction.
    """
    count, device = scheduler.config.num_train_timesteps, latents.device
    timesteps = torch.randint(0, count, (latents.shape[0],), generator=generator).to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    latents = latents.float()
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    else:
        raise BaseModelError(f"scheduler: expected epsilon or v_prediction, found {kind}; choose another base model")
    return Problem(scheduler.add_noise(latents, noise, timesteps), timesteps, target)


def loss_of(prediction: Tensor, problem: Problem) -> Tensor:
    """Mean squared error in float32."""
    return F.mse_loss(prediction.float(), problem.target)
