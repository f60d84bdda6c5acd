"""What the model is asked to predict, noise or velocity at a random timestep, and what each answer costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BaseModelError, ConfigError
from .chance import generator_for
from .machine import moved
from .settings import ObjectiveSettings

_NO_SIGNAL = 1e-6  # alpha_bar; some libraries keep a little in place of zero


@dataclass
class Problem:
    """Noisy latents [B,4,h,w], timesteps [B], the target [B,4,h,w] in float32, and the weight [B] of each row.

    deltas: [B] of the Huber loss, None for the squared error.
    """

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    weights: Tensor
    deltas: Tensor | None = None


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
        last = len(alphas_cumprod) - 1
        self._range = config.timestep_range or (0, last)
        if self._range[1] > last:
            raise ConfigError(
                f"objective.timestep_range: expected timesteps from 0 to {last}, found {list(self._range)}; correct it"
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
        timesteps = self._drawn(size, generator)[rows]
        noise = torch.randn(size, *latents.shape[1:], generator=generator)[rows]
        noise = moved(noise, device)
        if self.config.noise_offset:
            offset = torch.randn(size, latents.shape[1], 1, 1, generator=generator)[rows]
            noise = noise + self.config.noise_offset * moved(offset, device)
        return self.at(latents, noise, timesteps)

    def at(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Problem:
        """The problem for given noise [B,4,h,w] and timesteps [B]."""
        device = latents.device
        kept = self.alphas_cumprod[timesteps.cpu()]
        signal, sigma = (moved(x.float(), device)[:, None, None, None] for x in (kept.sqrt(), (1 - kept).sqrt()))
        noisy = signal * latents + sigma * noise
        target = noise if self.prediction == "epsilon" else signal * noise - sigma * latents
        deltas = self.huber_deltas(timesteps)
        return Problem(
            noisy,
            moved(timesteps, device),
            target,
            moved(self.snr_weights(timesteps), device),
            None if deltas is None else moved(deltas, device),
        )

    def _drawn(self, size: int, generator: torch.Generator) -> Tensor:
        """Timesteps [size] of the range: density even, rising or falling with the timestep, or logit-normal (Esser et
        al. 2024, arXiv 2403.03206)."""
        first, last = self._range
        how, count = self.config.timestep_sampling, last - first + 1
        if how == "uniform":
            return torch.randint(first, last + 1, (size,), generator=generator)
        if how == "middle":
            place = torch.randn(size, dtype=torch.float64, generator=generator).sigmoid()
        else:
            place = torch.rand(size, dtype=torch.float64, generator=generator)
            place = place.sqrt() if how == "high" else 1 - place.sqrt()
        return first + (place * count).long().clamp(0, count - 1)

    def huber_deltas(self, timesteps: Tensor) -> Tensor | None:
        """Where the Huber loss turns from the square to the size of an error, [B]; None for the squared error.

        Source: Khrapov et al. 2024, arXiv 2403.16728; "falling" is its exponential schedule.
        """
        if self.config.loss == "squared":
            return None
        delta = torch.full((len(timesteps),), self.config.huber_delta, dtype=torch.float64)
        if self.config.huber_schedule == "falling":
            delta = delta ** (timesteps.cpu() / (len(self.alphas_cumprod) - 1))
        return delta.float()

    def snr_weights(self, timesteps: Tensor) -> Tensor:
        """min-SNR weights [B] (Hang et al. 2023, arXiv 2303.09556): min(snr, gamma) / snr for epsilon, / (snr + 1)
        for v, with snr = alpha_bar / (1 - alpha_bar); ones where no gamma is set.

        Debiased (Yu et al. 2023, arXiv 2310.08442): 1 / sqrt(snr) for epsilon, and what the same is for v,
        sqrt(snr) / (snr + 1).

        All are finite: where epsilon's schedule ends with no signal, the weight is that of the lowest SNR above 0.
        """
        gamma = self.config.min_snr_gamma
        if gamma is None and self.config.weighting == "equal":
            return torch.ones(len(timesteps))
        kept = self.alphas_cumprod[timesteps.cpu()]
        if self.prediction == "epsilon":  # whose weights at an SNR of 0, where a schedule may end, are 0/0 or 1/0
            kept = kept.clamp(min=self.alphas_cumprod[self.alphas_cumprod > 0].min())
        snr = kept / (1 - kept)
        if self.config.weighting == "debiased":
            weights = 1 / snr.sqrt() if self.prediction == "epsilon" else snr.sqrt() / (snr + 1)
            return weights.nan_to_num(nan=0.0).float()  # the limit for an infinite SNR, that of pictures without noise
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
    """Weighted mean squared error, or Huber's of the problem's deltas, in float32.

    masks:   [B,1,h,w] in 0..1 or None; a row's error is its mean over what the mask shows, 0 where it shows nothing.
    weights: [B] or None, on top of the problem's own.
    """
    error = prediction.float() - problem.target
    if problem.deltas is None:
        error = error.square()
    else:  # the pseudo-Huber loss, which is the square for errors well below the delta
        delta = problem.deltas[:, None, None, None]
        square = error.square()  # 2 delta (sqrt(square + delta^2) - delta), so that small errors are not rounded away
        error = 2 * delta * square / ((square + delta.square()).sqrt() + delta)
    if masks is None:
        rows = error.flatten(1).mean(1)
    else:
        shown = masks.expand_as(error).flatten(1)
        rows = (error.flatten(1) * shown).sum(1) / shown.sum(1).clamp(min=1e-6)
    rows = rows * problem.weights
    return (rows if weights is None else rows * weights).mean()
