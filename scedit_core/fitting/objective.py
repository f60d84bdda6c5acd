"""What the model is asked to predict, noise or velocity at a random timestep, and what each answer costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .chance import generator_for
from .errors import BaseModelError, ConfigError
from .machine import moved
from .settings import ObjectiveSettings

_NO_SIGNAL = 1e-6  # alpha_bar; some libraries keep a little in place of zero


@dataclass
class Problem:
    """Noisy latents [B,4,h,w], timesteps [B], the target [B,4,h,w] in float32, and the weight [B] of each row."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    weights: Tensor


class Objective:
    """Poses problems and marks answers.

    alphas_cumprod: [T] of the base's noise schedule, in float32.
    prediction:     "epsilon" or "v_prediction".

    Raises BaseModelError for another prediction, ConfigError for zero terminal SNR with epsilon, which says nothing
    about a picture of pure noise (Lin et al. 2023, arXiv 2305.08891).
    """

    def __init__(self, alphas_cumprod: Tensor, prediction: str, config: ObjectiveSettings) -> None:
        if prediction not in ("epsilon", "v_prediction"):
            raise BaseModelError(
                f"base: expected epsilon or v_prediction, found {prediction}; choose another base model"
            )
        rescale = config.zero_terminal_snr
        stored = bool(alphas_cumprod[-1] < _NO_SIGNAL)
        if rescale is True and prediction == "epsilon":
            raise ConfigError(
                "objective.zero_terminal_snr: expected a base that predicts v, found one that predicts epsilon; "
                "set it to false"
            )
        if rescale is True and not stored:
            alphas_cumprod = with_zero_terminal_snr(alphas_cumprod)
        elif rescale is False and stored:
            raise ConfigError(
                "objective.zero_terminal_snr: expected auto or true for a base whose own schedule has it, found false; "
                "set it to auto"
            )
        self.alphas_cumprod = alphas_cumprod.double()
        self.prediction, self.config = prediction, config

    def pose(
        self, latents: Tensor, seed: int, step: int, size: int | None = None, part: tuple[int, int] = (0, 1)
    ) -> Problem:
        """Timesteps and noise for the latents [b,4,h,w] of this process.

        They are drawn for all `size` rows of the step's batch, of which `part` = (rank, processes) says the own ones.
        """
        size = size or latents.shape[0]
        generator = generator_for(seed, step, "noise")
        rows = slice(part[0], size, part[1])
        device, latents = latents.device, latents.float()
        timesteps = torch.randint(0, len(self.alphas_cumprod), (size,), generator=generator)[rows]
        noise = torch.randn(size, *latents.shape[1:], generator=generator)[rows]
        noise = moved(noise, device)
        if self.config.noise_offset:
            offset = torch.randn(size, latents.shape[1], 1, 1, generator=generator)[rows].to(device)
            noise = noise + self.config.noise_offset * offset
        return self.at(latents, noise, timesteps)

    def at(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Problem:
        """The problem for given noise [B,4,h,w] and timesteps [B]."""
        device = latents.device
        kept = self.alphas_cumprod[timesteps.cpu()]
        signal, sigma = (x.float().to(device)[:, None, None, None] for x in (kept.sqrt(), (1 - kept).sqrt()))
        noisy = signal * latents + sigma * noise
        target = noise if self.prediction == "epsilon" else signal * noise - sigma * latents
        return Problem(noisy, timesteps.to(device), target, self.snr_weights(timesteps).to(device))

    def snr_weights(self, timesteps: Tensor) -> Tensor:
        """min-SNR weights [B] (Hang et al. 2023, arXiv 2303.09556): min(snr, gamma) / snr for epsilon, / (snr + 1)
        for v, with snr = alpha_bar / (1 - alpha_bar); ones where no gamma is set.
        """
        gamma = self.config.min_snr_gamma
        if gamma is None:
            return torch.ones(len(timesteps))
        kept = self.alphas_cumprod[timesteps.cpu()]
        snr = kept / (1 - kept)
        below = snr if self.prediction == "epsilon" else snr + 1
        return (snr.clamp(max=gamma) / below).float()


def with_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule [T] shifted and scaled so that nothing of the picture is left at its end.

    Source: Lin et al. 2023, arXiv 2305.08891, algorithm 1.
    """
    roots = alphas_cumprod.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    kept = ((roots - last) * (first / (first - last))) ** 2
    steps = torch.cat([kept[:1], kept[1:] / kept[:-1]])
    return (1 - (1 - steps)).cumprod(0)  # by way of betas, as schedulers store it


def loss_of(prediction: Tensor, problem: Problem, masks: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Weighted mean squared error, in float32.

    masks:   [B,1,h,w] in 0..1 or None; a row's error is its mean over what the mask shows, 0 where it shows nothing.
    weights: [B] or None, on top of the problem's own.
    """
    error = (prediction.float() - problem.target).square()
    if masks is None:
        rows = error.flatten(1).mean(1)
    else:
        shown = masks.expand_as(error).flatten(1)
        rows = (error.flatten(1) * shown).sum(1) / shown.sum(1).clamp(min=1e-6)
    rows = rows * problem.weights
    return (rows if weights is None else rows * weights).mean()
