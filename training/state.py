"""What a run leaves behind: the tuner file, with full metadata, read back before it counts as saved."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch

from scedit_core import CSCTuner, SCTuner, load_tuner, save_tuner
from scedit_core.diffusers import attach
from scedit_core.tuners import HINT_FACTOR

from .base_model import BaseModel
from .config import TrainConfig
from .errors import TrainingError


def tuner_metadata(config: TrainConfig, base: BaseModel, images: int, steps: int) -> dict[str, str]:
    """Metadata of a trained tuner: what DESIGN asks for, the ModelSpec 1.0.1 keys, and the run's settings."""
    side = config.data.resolution
    kind = "SC-Tuner" if config.tuner.kind == "sc" else "Controllable SC-Tuner"
    architecture = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2", "sdxl": "stable-diffusion-xl-v1-base"}
    notes = {
        "scedit.prediction": base.prediction,
        "scedit.resolution": str(side),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture.get(base.layout.family, 'unet')}/scedit-{config.tuner.kind}",
        "modelspec.implementation": "https://arxiv.org/abs/2312.11392",
        "modelspec.title": config.title or f"{config.output.stem} ({kind})",
        "modelspec.date": time.strftime("%Y-%m-%d"),
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "v" if base.prediction == "v_prediction" else "epsilon",
        "scedit.base": base.name,
        "scedit.training": json.dumps(
            {"images": images, "steps": steps, **config.loop.model_dump(), "ratio": config.tuner.ratio}, sort_keys=True
        ),
    }
    if config.data.condition is not None:
        notes["scedit.condition"] = json.dumps(config.data.condition.model_dump(), sort_keys=True)
        notes["scedit.scale"] = "1.0"
    return notes


def check_writable(path: Path) -> None:
    """Raise TrainingError where `path` cannot be written, so that this is known before the training and not after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise TrainingError(
            f"{path}: expected a place that can be written, found none ({error.strerror}); choose another output"
        ) from error


def save_trained(tuner: SCTuner | CSCTuner, path: Path, metadata: dict[str, str], base: BaseModel) -> Path:
    """Save the tuner, load the file, and run it once under the base model.

    Raises TunerFileError where the file cannot be written or read, TrainingError where the forward is not finite.
    """
    save_tuner(tuner, path, metadata)
    saved = load_tuner(path)
    unet = base.unet
    side = unet.config.sample_size if isinstance(unet.config.sample_size, int) else 16
    latents = torch.randn(1, unet.config.in_channels, side, side, generator=torch.Generator().manual_seed(0))
    hint = torch.rand(1, 3, side * HINT_FACTOR, side * HINT_FACTOR, generator=torch.Generator().manual_seed(1))
    states = base.encode_captions([""]).to(unet.device, unet.dtype)
    with torch.no_grad(), attach(unet, [(saved, 1.0, hint if isinstance(saved, CSCTuner) else None)]):
        out = unet(latents.to(unet.device, unet.dtype), torch.tensor(500, device=unet.device), states).sample
    if not torch.isfinite(out).all():
        raise TrainingError(
            f"{path}: expected finite output from the saved tuner, found NaN or infinity; lower the learning rate"
        )
    return path
