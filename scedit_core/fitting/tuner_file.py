"""What a run leaves behind: the tuner file, with full metadata, read back before it counts as saved."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch

from .. import CSCTuner, SCTuner, load_tuner, save_tuner
from ..diffusers import attach
from ..tuners import HINT_FACTOR

from .base import FrozenBase
from .errors import TrainingError

_ARCHITECTURES = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2", "sdxl": "stable-diffusion-xl-v1-base"}
_PLACES = {"detector", "persons"}  # where a machine keeps its files is nobody else's business
_PROBE = 16  # side of the latent on which a saved file is tried; enough for every U-Net, and cheap


def tuner_metadata(config: TrainConfig, base: BaseModel, images: int, steps: int) -> dict[str, str]:
    """Metadata of a trained tuner: what DESIGN asks for, the ModelSpec 1.0.1 keys, and the run's settings."""
    side = config.data.resolution
    kind = "SC-Tuner" if config.tuner.kind == "sc" else "Controllable SC-Tuner"
    settings = {**config.loop.model_dump(), **config.objective.model_dump(), "ratio": config.tuner.ratio}
    notes = {
        "scedit.prediction": base.prediction,
        "scedit.resolution": str(side),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_ARCHITECTURES.get(base.layout.family, 'unet')}/scedit-{config.tuner.kind}",
        "modelspec.implementation": "https://arxiv.org/abs/2312.11392",
        "modelspec.title": config.title or f"{config.output.stem} ({kind})",
        "modelspec.date": time.strftime("%Y-%m-%d"),
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "v" if base.prediction == "v_prediction" else "epsilon",
        "scedit.base": base.name,
        "scedit.training": json.dumps({"images": images, **settings, "steps": steps}, sort_keys=True),
    }
    if config.data.condition is not None:
        notes["scedit.condition"] = json.dumps(condition_values(config.data.condition), sort_keys=True)
        notes["scedit.scale"] = "1.0"
    return notes


def condition_values(condition: Condition) -> dict:
    """What the metadata says of a condition: its type and how its hints are made."""
    if condition.type == "custom":
        return {"type": condition.name}
    return condition.model_dump(exclude=_PLACES)


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
    saved, unet = load_tuner(path), base.unet
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, unet.config.in_channels, _PROBE, _PROBE, generator=draw)
    hint = torch.rand(1, 3, _PROBE * HINT_FACTOR, _PROBE * HINT_FACTOR, generator=draw)
    sizes = torch.full((1, 6), float(config_side(unet))) if base.needs_sizes else None
    inputs = base.unet_inputs(base.encode_captions([""]), sizes)
    with torch.no_grad(), attach(unet, [(saved, 1.0, hint if isinstance(saved, CSCTuner) else None)]):
        out = unet(latents.to(unet.device, unet.dtype), torch.tensor(500, device=unet.device), **inputs).sample
    if not torch.isfinite(out).all():
        raise TrainingError(
            f"{path}: expected finite output from the saved tuner, found NaN or infinity; lower the learning rate"
        )
    return path


def config_side(unet) -> int:
    """The side in pixels of the pictures that a U-Net was made for."""
    side = unet.config.sample_size
    return (side if isinstance(side, int) else 64) * HINT_FACTOR
