"""Everything a run tells, told once, to whoever listens.

| event      | keys |
|------------|------|
| plan       | images, steps, batch (images in an update), parameters, base, ... |
| remarks    | remarks, a list: what, count, names (the first), advice, text (all in one line) |
| caching    | done, total, hits, misses |
| step       | step, steps, loss, learning_rate, grad_norm, images_per_second, memory_mib, eta_seconds, skipped (fp16) |
| preview    | step, path, found_again (how far the condition made of the result is from the hint, 0..1); of controls |
|            | for edges edge_f1_with, edge_f1_without; seconds_with, seconds_without, a sampling step; with a |
|            | teacher edge_f1_teacher, seconds_teacher |
| validation | step, loss_with, loss_without, loss_trained, loss_trained_without, by_timestep, images, pairs, |
|            | unseen (by training); of controls loss_other_hint (another picture's), gap, gap_error; with a teacher |
|            | loss_teacher, agreement (of the residuals) |
| saved      | step, path |
| tuner      | step, path, of a file beside the output |
| stopped    | reason, resume (as the run was started) |
| finished   | path |
| error      | message |
| note       | message |

Each has `event` and `time` (ISO 8601 with the offset to UTC) besides.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import SCEditError, in_short
from .event_log import EventLog, plain
from .pace import Pace
from .run_folder import Stopped


class Listener(Protocol):
    """Something that events are told to."""

    def take(self, event: dict[str, Any]) -> None:
        """Hear one event."""

    def close(self) -> None:
        """Hear no more."""


class Events:
    """Tells events to listeners.  One that fails is told no more, and the run goes on: a full disk must not stop it."""

    def __init__(self, listeners: list[Listener] = ()) -> None:
        self._listeners = list(listeners)
        self._pace, self._batch = Pace(), 1

    def emit(self, event: str, **values: Any) -> None:
        """Tell `event`.  A step is told with its speed, memory and time left, where `values` do not say them.

        seconds_left: of a step, what a budget of minutes leaves at most.
        """
        if event == "plan":
            self._batch = values.get("batch", 1)
        if event == "step":
            paced = self._pace.step(values["step"], values["steps"], self._batch)
            if (most := values.pop("seconds_left", None)) is not None:
                paced["eta_seconds"] = max(0.0, min(paced["eta_seconds"], most))
            values = {**paced, **values}
        else:
            self._pace.pause()
        self._tell({"event": event, "time": _now(), **plain(values)})

    def set_aside(self, folder: Path) -> None:
        """Have the log of earlier runs moved to `folder`: another run begins."""
        for listener in self._listeners:
            if isinstance(listener, EventLog):
                listener.set_aside(folder)

    def close(self) -> None:
        """Close the listeners."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _tell(self, event: dict[str, Any]) -> None:
        failed = []
        for listener in self._listeners:
            try:
                listener.take(event)
            except Exception as error:  # of whatever kind, in code that only looks on
                failed.append((listener, error))
        for listener, error in failed:
            self._listeners.remove(listener)
            self._tell(
                {"event": "note", "time": _now(), "message": f"{type(listener).__name__} left: {in_short(error)}"}
            )


@contextlib.contextmanager
def told_of_the_end(
    events: Sequence[Events], start: str, no_room: Exception, no_memory: type[Exception] = torch.OutOfMemoryError
) -> Iterator[None]:
    """While open, a wish to stop ends the work, and errors are told as one sentence before they are raised.

    start: as the run was started.  no_room: what is told and raised in place of `no_memory`.
    """

    def tell(event: str, **values: Any) -> None:
        for each in events:
            each.emit(event, **values)

    try:
        yield
    except Stopped as stop:
        tell("stopped", reason=stop.args[0], resume=start)
    except no_memory as error:
        tell("error", message=str(no_room))
        raise no_room from error
    except SCEditError as error:
        tell("error", message=str(error))
        raise


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
