"""Everything a run tells, told once: to the terminal, to events.jsonl, to TensorBoard and to wandb.

| event      | keys |
|------------|------|
| plan       | images, steps, batch (images in an update), parameters, base, ... |
| remarks    | remarks, a list: what, count, names (the first), advice, text (all in one line) |
| caching    | done, total, hits, misses |
| step       | step, steps, loss, learning_rate, grad_norm, images_per_second, memory_mib, eta_seconds |
| preview    | step, path |
| validation | step, loss_with, loss_without, loss_no_hint (controls), by_timestep, images, unseen (by training) |
| saved      | step, path |
| stopped    | reason, resume (as the run was started) |
| finished   | path |
| error      | message |
| note       | message |

Each has `event` and `time` (ISO 8601 with the offset to UTC) besides.
"""

from __future__ import annotations

import datetime
from typing import Any, Protocol

from rich.console import Console

from training.config import TrainConfig
from training.seeing.boards import TensorBoard, WeightsAndBiases
from .event_log import EVENTS_FILE, EventLog, plain
from .pace import Pace
from training.seeing.reporting import Reporting
from training.seeing.run_config import write_run_config
from training.seeing.terminal import Terminal


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
        """Tell `event`.  A step is told with its speed, memory and time left, where `values` do not say them."""
        if event == "plan":
            self._batch = values.get("batch", 1)
        if event == "step":
            values = {**self._pace.step(values["step"], values["steps"], self._batch), **values}
        else:
            self._pace.pause()
        self._tell({"event": event, "time": _now(), **plain(values)})

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
            reason = " ".join(str(error).split())[:160]
            self._tell({"event": "note", "time": _now(), "message": f"{type(listener).__name__} left: {reason}"})


def open_events(config: TrainConfig, console: Console, main_process: bool = True) -> Events:
    """The events of a run, told to all that `config` asks for; by the main process alone.

    A package that is not installed, or a folder that cannot be written, is told as a note.
    """
    if not main_process:
        return Events()
    listeners: list[Listener] = [Terminal(config, console)]
    notes = []
    folder = config.run_folder
    try:
        log = EventLog(folder / EVENTS_FILE)
        write_run_config(config)
        listeners += [log, Reporting(folder)]  # in this order: the report reads the log
    except OSError as error:
        notes.append(f"{folder}: expected a folder that can be written, found none ({error.strerror}); no log is kept")
    for wanted, board in ((config.tensorboard, TensorBoard), (config.wandb, WeightsAndBiases)):
        if wanted:
            try:
                listeners.append(board(config))
            except ImportError:
                key, package = board.KEY, board.PACKAGE
                notes.append(f"{key}: expected the package, found none; pip install {package}, or set {key}: false")
            except Exception as error:  # wandb without an account, an old protobuf, ...
                reason = " ".join(str(error).split())[:160]
                notes.append(f"{board.KEY}: expected it to start, found an error ({reason}); goes on without")
    events = Events(listeners)
    for message in notes:
        events.emit("note", message=message)
    return events


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
