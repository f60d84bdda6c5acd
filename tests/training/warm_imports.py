"""All that a training imports, also late; for the fork server of warm.py."""

from __future__ import annotations

import diffusers.guiders  # noqa: F401
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel  # noqa: F401

import scedit_core.fitting.report  # noqa: F401

torch.set_num_threads(1)
DDIMScheduler._get_compatibles()  # imports what a scheduler that is loaded from a folder does
