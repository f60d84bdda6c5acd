"""Other programs that draw curves: TensorBoard, and wandb where a configuration asks for it."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from PIL import Image

from ..config import TrainConfig
from .run_config import plain_values

_OF_A_STEP = ("loss", "learning_rate", "grad_norm", "images_per_second", "memory_mib")


def scalars(event: dict[str, Any]) -> dict[str, float]:
    """The numbers of an event to draw over steps, by tag; empty for events without."""
    if event["event"] == "step":
        return {f"train/{key}": event[key] for key in _OF_A_STEP if event.get(key) is not None}
    if event["event"] == "preview":
        return {f"previews/{key}": value for key, value in event.items() if key.startswith("edge_f1_")}
    if event["event"] != "validation":
        return {}
    measured = (k for k in event if k.startswith("loss_") or k == "agreement")
    found = {f"validation/{k}": event[k] for k in measured if event[k] is not None}
    for at in event.get("by_timestep") or []:
        found |= {f"validation_t{at['timestep']}/{k}": v for k, v in at.items() if k != "timestep" and v is not None}
    return found


class TensorBoard:
    """Writes `tensorboard/` in the run folder.  Raises ImportError where the package is not installed."""

    NAME = "tensorboard"  # of the package, and of the key

    def __init__(self, config: TrainConfig) -> None:
        self._module = importlib.import_module("torch.utils.tensorboard")
        self._folder = config.run_folder / "tensorboard"
        self._writer = None

    def take(self, event: dict[str, Any]) -> None:
        """Write numbers and pictures."""
        step = event.get("step")
        if step is None:
            return
        if self._writer is None:  # a resumed run does some steps again: what was written of them is hidden
            self._writer = self._module.SummaryWriter(str(self._folder), purge_step=step)
        for tag, value in scalars(event).items():
            self._writer.add_scalar(tag, value, step)
        if event["event"] == "preview":
            with Image.open(event["path"]) as picture:
                self._writer.add_image("previews", np.asarray(picture.convert("RGB")), step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write out what is left."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """Logs to wandb: over the network where an account is set up, else into the run folder (wandb sync sends it).

    Raises ImportError where the package is not installed.
    """

    NAME = "wandb"

    def __init__(self, config: TrainConfig) -> None:
        self._wandb = importlib.import_module("wandb")
        mode = os.environ.get("WANDB_MODE") or ("online" if self._has_account() else "offline")
        self._run = self._wandb.init(
            project="scedit",
            name=config.output.stem,
            dir=str(config.run_folder),
            config=plain_values(config),
            mode=mode,
        )

    def _has_account(self) -> bool:
        """Whether a key is set up; asked for beforehand, since `init` would wait for one to be typed."""
        try:
            return bool(self._wandb.Api().api_key)
        except self._wandb.errors.Error:
            return False

    def take(self, event: dict[str, Any]) -> None:
        """Log numbers and pictures."""
        values: dict[str, Any] = scalars(event)
        if event["event"] == "preview":
            values["previews"] = self._wandb.Image(event["path"])
        if values:
            self._run.log(values, step=event["step"])

    def close(self) -> None:
        """End the run."""
        self._run.finish()
