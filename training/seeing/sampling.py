"""Pictures from the base while it is being trained on: DDIM with trailing steps and plain guidance.

That is what the host's KSampler makes of the same noise with sampler ddim (or euler) and scheduler sgm_uniform.
"""

from __future__ import annotations

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from scedit_core import CSCTuner, SCTuner
from scedit_core.diffusers import attach
from scedit_core.fitting.distilling import Teacher

from ..bases.base_model import BaseModel, TextStates
from ..config import ObjectiveConfig

# The first order of DPM-Solver++ is DDIM (Lu et al. 2022, arXiv 2211.01095).  Diffusers' own DDIM takes every step to
# be of equal length, which holds for divisors of a thousand alone, and takes none of these lists of timesteps.
_STEPS = {
    "solver_order": 1,
    "algorithm_type": "dpmsolver++",
    "final_sigmas_type": "zero",
    "timestep_spacing": "trailing",
    "lambda_min_clipped": -float("inf"),
    "use_karras_sigmas": False,
    "thresholding": False,
}


def preview_scheduler(base: BaseModel, objective: ObjectiveConfig) -> DPMSolverMultistepScheduler:
    """A scheduler with the base's betas, and with zero terminal SNR where it is trained to that."""
    changes = {**_STEPS, "prediction_type": base.prediction}
    if objective.zero_terminal_snr is True:
        changes["rescale_betas_zero_snr"] = True
    return DPMSolverMultistepScheduler.from_config(base.scheduler.config, **changes)


def trailing_timesteps(steps: int, total: int) -> list[int]:
    """`steps` timesteps from total-1 down, evenly, none below 0 (Lin et al. 2023, arXiv 2305.08891, table 2).

    Raises ValueError for more steps than there are timesteps.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"sampling: expected from 1 to {total} steps, found {steps}; take fewer")
    return [round(total * (steps - i) / steps) - 1 for i in range(steps)]


def starting_noise(height: int, width: int, seed: int) -> Tensor:
    """Noise [1,4,height/8,width/8] as the host draws it for a seed: on the CPU, whatever trains."""
    return torch.randn(1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample(
    base: BaseModel,
    scheduler: DPMSolverMultistepScheduler,
    text: TextStates,
    noise: Tensor,
    steps: int,
    guidance: float,
    tuner: SCTuner | CSCTuner | None = None,
    hint: Tensor | None = None,
    teacher: Teacher | None = None,
) -> Tensor:
    """Latents [1,4,h,w] of one picture, scaled, on the U-Net's device.

    text:  two rows, of the negative prompt and of the prompt.
    noise: [1,4,h,w].
    hint:  [1,3,8h,8w] in 0..1 for a CSC-Tuner.
    teacher: a ControlNet that follows the hint in place of a tuner.
    """
    device = base.unet.device
    rows = [1] if guidance == 1 else [0, 1]
    sizes = None
    if base.needs_sizes:
        height, width = (8 * side for side in noise.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(rows), device=device)
    inputs = base.unet_inputs(text.rows(rows), sizes)
    attached = [] if tuner is None else [(tuner, 1.0, hint if isinstance(tuner, CSCTuner) else None)]
    timesteps = trailing_timesteps(steps, scheduler.config.num_train_timesteps)
    scheduler.set_timesteps(timesteps=timesteps, device=device)
    latents = noise.to(device, torch.float32)
    with attach(base.unet, attached):
        for timestep in scheduler.timesteps:
            seen = torch.cat([latents] * len(rows)).to(base.unet.dtype)
            if teacher is None:
                said = base.unet(seen, timestep, return_dict=False, **inputs)[0].float()
            else:
                times, hints = timestep.expand(len(rows)), hint.expand(len(rows), -1, -1, -1)
                added = teacher.residuals(seen, times, hints, text.rows(rows), sizes)
                said = base.predict(seen, times, text.rows(rows), sizes, added=added).float()
            if len(rows) == 2:
                without, with_prompt = said.chunk(2)
                said = without + guidance * (with_prompt - without)
            latents = scheduler.step(said, timestep, latents, return_dict=False)[0]
    return latents
