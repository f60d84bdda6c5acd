"""How a run is seen: a progress bar with loss, speed and time left, or plain lines where there is no terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingProgress:
    """A progress bar for `steps` steps of `batch` images.  Use as a context manager and call `tick(loss)`."""

    def __init__(self, title: str, steps: int, batch: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self._title, self._steps, self._batch = title, steps, batch
        self._step, self._mean, self._start, self._said = 0, 0.0, 0.0, 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.1f} images/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> TrainingProgress:
        self._start = self._said = time.monotonic()
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=self._steps, loss=float("nan"), speed=0.0)
        return self

    def __exit__(self, *_exception) -> None:
        self._bar.stop()
        self.console.print(
            f"{self._title}: {self._step} steps in {time.monotonic() - self._start:.0f} s, loss {self._mean:.4f}"
        )

    def tick(self, loss: float) -> None:
        """One step is done.  The loss shown is a running mean over about fifty steps."""
        self._step += 1
        rate = max(1 / self._step, 0.02)
        self._mean += rate * (loss - self._mean)
        now = time.monotonic()
        speed = self._step * self._batch / max(now - self._start, 1e-9)
        self._bar.update(self._task, advance=1, loss=self._mean, speed=speed)
        if not self.console.is_terminal and now - self._said > 15:
            self._said = now
            left = (self._steps - self._step) * (now - self._start) / self._step
            self.console.print(
                f"{self._title}: step {self._step} of {self._steps}, loss {self._mean:.4f}, "
                f"{speed:.1f} images/s, {left:.0f} s left",
                highlight=False,
            )
