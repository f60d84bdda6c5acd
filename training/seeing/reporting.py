"""A report at each end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Reporting:
    """Writes the report of a run whenever it ends, finished or stopped."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder

    def take(self, event: dict[str, Any]) -> None:
        """Write it at an end.  Raises OSError where it cannot be written."""
        if event["event"] in ("finished", "stopped"):
            from .report import write_report  # here, since a run shall not wait for matplotlib when it begins

            write_report(self._folder)

    def close(self) -> None:
        """Nothing is open."""
