"""How fast a run is, and how long it still takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import torch

from .machine import peak_memory_mib

_WINDOW = 50


class Pace:
    """Speed over the last fifty steps, without the time that previews, validation and saving take.

    clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._durations: deque[float] = deque(maxlen=_WINDOW)
        self._since = clock()
        self._begun = False

    def pause(self) -> None:
        """Leave out the time since the last step."""
        self._since = self._clock()

    def step(self, step: int, steps: int, batch: int) -> dict[str, float]:
        """One update of `batch` images is done: images_per_second, eta_seconds, and memory_mib at its peak so far."""
        now = self._clock()
        if len(self._durations) == 1 and not self._begun:
            self._durations.clear()  # the first step is slow: memory is taken, kernels are chosen
            self._begun = True
        self._durations.append(max(now - self._since, 1e-9))
        self._since = now
        mean = sum(self._durations) / len(self._durations)
        device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
        return {
            "images_per_second": batch / mean,
            "memory_mib": peak_memory_mib(device),
            "eta_seconds": (steps - step) * mean,
        }


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 3 min 12 s, 2 h 05 min."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
