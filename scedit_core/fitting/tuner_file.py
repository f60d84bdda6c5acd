"""What a run leaves behind: the tuner file, with full metadata, read back before it counts as saved."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ..conditions.fitting import fitting_of
from ..errors import TrainingError, TunerFileError
from ..files import inspect_tuner, load_tuner
from ..saving import save_tuner
from ..tuners import HINT_FACTOR, CSCTuner, SCTuner
from .base import FrozenBase
from .settings import Settings

_ARCHITECTURES = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2", "sdxl": "stable-diffusion-xl-v1-base"}
_PLACES = {"detector", "persons"}  # where a machine keeps its files is nobody else's business
STEP = "scedit.step"  # metadata of a tuner that is not the last of its run
_PROBE = 16  # side of the latent on which a saved file is tried; enough for every U-Net, and cheap


def tuner_metadata(config: Settings, base: FrozenBase, images: int, steps: int, scale: float = 1.0) -> dict[str, str]:
    """Metadata of a trained tuner: the pack's own and the ModelSpec 1.0.1 keys, and the run's settings.

    scale: at which a control was trained; at another one it would be stronger or weaker than it was.
    """
    side = config.data.resolution
    kind = "SC-Tuner" if config.tuner.kind == "sc" else "Controllable SC-Tuner"
    settings = {**config.loop.values(), **config.objective.values(), "ratio": config.tuner.ratio}
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
        notes["scedit.scale"] = str(scale)
    return notes


def condition_values(condition: Any) -> dict[str, Any]:
    """What the metadata says of a condition: its type, how its hints are made, and how they come to a size."""
    values = condition.values()
    fitting = fitting_of(values).said()
    if condition.type == "custom":
        return {"type": condition.name, **fitting}
    return {key: value for key, value in values.items() if key not in _PLACES} | fitting


def on_the_way(output: Path, step: int) -> Path:
    """The file beside `output` that has the tuner as it was after `step` updates."""
    return output.with_name(f"{output.stem}-step-{step:06d}{output.suffix}")


def kept_on_the_way(output: Path) -> dict[int, Path]:
    """Those files that are there, by their step; files of that name that are nothing of this trainer's do not count."""
    name = re.compile(re.escape(output.stem) + r"-step-(\d{6,})" + re.escape(output.suffix))
    found = {}
    for path in output.parent.glob("*" + output.suffix):
        if match := name.fullmatch(path.name):
            with contextlib.suppress(TunerFileError):
                if STEP in inspect_tuner(path)["metadata"]:
                    found[int(match[1])] = path
    return dict(sorted(found.items()))


def check_writable(path: Path, key: str = "output") -> None:
    """Raise TrainingError where `path`, which `key` names, cannot be written: before a training and not after it."""
    try:
        if path.is_dir() and key == "output":
            raise IsADirectoryError(errno.EISDIR, "a folder has its name")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise TrainingError(
            f"{path}: expected a place that can be written, found none ({error.strerror}); choose another {key}"
        ) from error


def save_trained(tuner: SCTuner | CSCTuner, path: Path, metadata: dict[str, str], base: FrozenBase) -> Path:
    """Save the tuner, load the file, run it once under the base model, and only then give it the name `path`.

    Raises TunerFileError where the file cannot be written or read, TrainingError where the forward is not finite;
    what was at `path` is then as it was.
    """
    part = path.with_name(f".{path.stem}.part.safetensors")
    try:
        save_tuner(tuner, part, metadata)
        _try_out(part, path, base)
        os.replace(part, path)
    except TunerFileError as error:
        raise TunerFileError(str(error).replace(part.name, path.name)) from error
    except OSError as error:
        raise TunerFileError(
            f"{path}: expected to replace the file, found that it could not be ({error.strerror or error}); close what "
            "has it open, and start again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def _try_out(file: Path, path: Path, base: FrozenBase) -> None:
    """Run a saved tuner once; it is a map of its file, which Windows does not let be renamed before it is gone."""
    saved = load_tuner(file)
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, base.latent_channels, _PROBE, _PROBE, generator=draw)
    hint = torch.rand(1, 3, _PROBE * HINT_FACTOR, _PROBE * HINT_FACTOR, generator=draw)
    sizes = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]]) if base.needs_sizes else None
    with torch.no_grad():
        edits = [(saved, 1.0, hint if isinstance(saved, CSCTuner) else None)]
        time = torch.tensor([500], device=base.unet_device)
        out = base.predict(latents.to(base.unet_device), time, base.encode_captions([""]), sizes, edits)
    if not torch.isfinite(out).all():
        raise TrainingError(
            f"{path}: expected finite output from the trained tuner, found NaN or infinity; lower the learning rate"
        )
