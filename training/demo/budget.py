"""A training stage that is limited by minutes, saves itself, and goes on where it was stopped."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch


class TimedStage:
    """Counts minutes over restarts, gives the learning rate for them, and keeps the state of a stage in one file.

    `parts` maps names to objects with `state_dict` and `load_state_dict`.  With the same budget a restart goes on
    where the last checkpoint was written; a finished stage stays finished.
    """

    def __init__(self, name: str, folder: Path, minutes: float, parts: dict, save_every_s: float = 120.0) -> None:
        self.name, self.minutes, self.parts = name, minutes, parts
        self.path = folder / f"{name}.state.pt"
        self.step, self.images, self._before = 0, 0, 0.0
        self._save_every, self._report_at = save_every_s, 0.0
        if self.path.exists():
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            self.step, self.images, self._before = state["step"], state["images"], state["seconds"]
            for key, part in parts.items():
                part.load_state_dict(state["parts"][key])
            print(
                f"{name}: goes on at step {self.step}, {self._before / 60:.1f} of {minutes:g} minutes used", flush=True
            )
        self._start = self._saved = time.monotonic()

    def start_clock(self) -> None:
        """Count from here: what was done since the stage was made (drawing its data, say) is not training."""
        self._start = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of work so far, earlier runs included."""
        return self._before + time.monotonic() - self._start

    @property
    def done(self) -> float:
        """The part of the budget that is used, 0..1."""
        return min(1.0, self.seconds / (60 * self.minutes)) if self.minutes else 1.0

    def learning_rate(self, peak: float, warmup_steps: int = 200) -> float:
        """Linear warm-up over steps, then a cosine over the time budget down to 2 % of `peak`."""
        return (
            peak * min(1.0, (self.step + 1) / warmup_steps) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.done)))
        )

    def tick(self, images: int, loss: float) -> None:
        """Call after each step; reports every 20 s and saves from time to time."""
        self.step += 1
        self.images += images
        now = time.monotonic()
        if now > self._report_at:
            self._report_at = now + 20
            rate = self.images / max(self.seconds, 1e-9)
            minutes = self.seconds / 60
            print(
                f"{self.name}: step {self.step}, {self.images} images, loss {loss:.4f}, "
                f"{rate:.0f} images/s, {minutes:.1f} of {self.minutes:g} min",
                flush=True,
            )
        if now - self._saved > self._save_every:
            self.save()

    def save(self) -> None:
        """Write the state to a temporary file and rename it."""
        state = {
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "parts": {key: part.state_dict() for key, part in self.parts.items()},
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)
        self._saved = time.monotonic()
