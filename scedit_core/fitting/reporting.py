"""The report of a run: written while it goes on, so that it can be looked at, and at each end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .report import write_report

_ENDS = ("finished", "stopped")
_SEEN = ("step", "validation", "preview", "tuner")
_FIRST = 20.0  # seconds after the plan
_SHARE = 1 / 30  # of the time that may go into it: two seconds of a minute


class Reporting:
    """Writes the report of a run now and then while it goes on, and whenever it ends.

    word: see `write_report`.  clock: seconds, for tests.
    """

    def __init__(
        self, run_folder: Path, word: Callable[[str], str] = str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._word, self._clock = run_folder, word, clock
        self._next: float | None = None  # nothing is to be seen before the plan

    def take(self, event: dict[str, Any]) -> None:
        """Write it where it is time to.  Raises OSError where it cannot be written at an end."""
        if event["event"] == "plan":
            self._next = self._clock() + _FIRST
        elif event["event"] in _ENDS or (event["event"] == "error" and self._next is not None):
            write_report(self._folder, False, self._word)
        elif event["event"] in _SEEN and self._next is not None and self._clock() >= self._next:
            begun = self._clock()
            with contextlib.suppress(OSError):  # a full disk: at the end it is told
                write_report(self._folder, True, self._word)
            now = self._clock()
            self._next = now + max(_FIRST, (now - begun) * (1 / _SHARE - 1))

    def close(self) -> None:
        """Nothing is open."""
