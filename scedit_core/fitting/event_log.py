"""The log of a run: events.jsonl, one JSON object a line, for programs and for the report."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.jsonl"
_ESCAPED = "backslashreplace"  # names of files that are no UTF-8 have lone surrogates, which JSON has as escapes


class EventLog:
    """Appends events to a file, each written out before the next step begins.

    A killed run may leave half a line; the next run ends it, and `read_events` passes over it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115, it is open as long as the run
        if self._file.tell() and not _ends_with_newline(path):
            self._file.write(b"\n")
            self._file.flush()
        self._begun = self._file.tell()

    def take(self, event: dict[str, Any]) -> None:
        """Write one event.  Raises OSError where there is no room."""
        self._file.write(json.dumps(event, ensure_ascii=False, allow_nan=False).encode("utf-8", _ESCAPED) + b"\n")
        self._file.flush()

    def set_aside(self, folder: Path) -> None:
        """Move what earlier starts have written to `folder`, and keep what this one has.

        Where another program holds the file open, which Windows does not let be replaced, all stays in it.
        """
        if not self._begun:
            return
        self._file.close()
        try:
            written = self._path.read_bytes()
            (folder / self._path.name).write_bytes(written[: self._begun])
            part = self._path.with_suffix(".part")
            part.write_bytes(written[self._begun :])
            os.replace(part, self._path)
            self._begun = 0
        except OSError:
            (folder / self._path.name).unlink(missing_ok=True)
        finally:
            self._file = open(self._path, "ab")  # noqa: SIM115

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a file in the order of writing, without lines that a killed run left unfinished.

    Raises OSError where the file cannot be read.
    """
    events = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # also a character cut in half
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return events


def latest_run_of_steps(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events without those that a later start has done again.

    A run that was killed at step 700 goes on from its checkpoint at 500, and one started anew begins at 1: what the log
    says of the steps from there on is then no longer so.
    """
    kept: list[dict[str, Any]] = []
    fresh = False  # whether a start was seen whose first step was not
    for event in events:
        if event["event"] == "plan":
            fresh = True
        elif event["event"] == "step" and fresh:
            fresh = False
            kept = [e for e in kept if not isinstance(e.get("step"), int) or e["step"] < event["step"]]
        kept.append(event)
    return kept


def plain(value: Any) -> Any:
    """A value as JSON has it: paths become text, numbers of torch and numpy plain, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # a tensor or an array
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
