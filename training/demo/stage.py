"""A training stage of a fixed number of steps that saves itself and resumes."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from pickle import UnpicklingError

import torch

from scedit_core.errors import TrainingError

VERSION = 2  # of what a state holds and of the scenes it was trained on


class Stage:
    """Counts steps over restarts, gives the learning rate for them, and keeps the state of a stage in one file.

    `parts` maps names to objects with `state_dict` and `load_state_dict`.  A restart resumes from the last checkpoint;
    a finished stage stays finished.  Raises TrainingError where that file cannot be read.
    """

    def __init__(self, name: str, folder: Path, steps: int, parts: dict, save_every_s: float = 90.0) -> None:
        self.name, self.steps, self.parts = name, steps, parts
        self.path = folder / f"{name}.state.pt"
        self.step, self._save_every, self._report_at = 0, save_every_s, 0.0
        if self.path.exists():
            try:
                state = torch.load(self.path, map_location="cpu", weights_only=True)
                if state["version"] != VERSION:
                    raise ValueError(state["version"])
                for key, part in parts.items():
                    part.load_state_dict(state["parts"][key])
                self.step = state["step"]
            except (KeyError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
                raise TrainingError(
                    f"{self.path}: expected the state of stage {name}, found a damaged file or one of another version; "
                    "delete it to train the stage anew, or choose another work folder"
                ) from error
            print(f"{name}: resumes at step {self.step} of {steps}", flush=True)
        self._start, self._first = time.process_time(), self.step
        self._saved = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps

    def learning_rate(self, peak: float, warmup_steps: int = 100) -> float:
        """Linear warm-up, then a cosine over all steps down to 2 % of `peak`."""
        done = min(1.0, self.step / self.steps)
        return peak * min(1.0, (self.step + 1) / warmup_steps) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def tick(self, loss: float) -> None:
        """Call after each step; reports every 20 s and saves from time to time."""
        self.step += 1
        now = time.monotonic()
        if now > self._report_at:
            self._report_at = now + 20
            rate = (self.step - self._first) / max(time.process_time() - self._start, 1e-9)
            print(
                f"{self.name}: step {self.step} of {self.steps}, loss {loss:.4f}, {rate:.2f} steps a core second",
                flush=True,
            )
        if now - self._saved > self._save_every or self.finished:
            self.save()

    def save(self) -> None:
        """Write the state to a temporary file and rename it."""
        state = {
            "version": VERSION,
            "step": self.step,
            "parts": {key: part.state_dict() for key, part in self.parts.items()},
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)
        self._saved = time.monotonic()


def follow(average: torch.nn.Module, model: torch.nn.Module, step: int, every: int = 1, most: float = 0.998) -> None:
    """Move the running average of a model's weights towards it; call after each `every` steps."""
    keep = min(most, step / (step + 10)) ** every
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)
