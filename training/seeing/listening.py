"""Who listens to a run: the terminal, events.jsonl with its report, TensorBoard and wandb."""

from __future__ import annotations

from rich.console import Console

from scedit_core.errors import in_short
from scedit_core.fitting.event_log import EVENTS_FILE, EventLog
from scedit_core.fitting.events import Events, Listener
from scedit_core.fitting.reporting import Reporting

from ..config import TrainConfig
from .boards import TensorBoard, WeightsAndBiases
from .terminal import Terminal


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
        listeners += [EventLog(folder / EVENTS_FILE), Reporting(folder)]  # in this order: the report reads the log
    except OSError as error:
        notes.append(f"{folder}: expected a folder that can be written, found none ({error.strerror}); no log is kept")
    for wanted, board in ((config.tensorboard, TensorBoard), (config.wandb, WeightsAndBiases)):
        if wanted:
            try:
                listeners.append(board(config))
            except ImportError:
                name = board.NAME
                notes.append(f"{name}: expected the package, found none; pip install {name}, or set {name}: false")
            except Exception as error:  # wandb without an account, an old protobuf, ...
                notes.append(f"{board.NAME}: expected it to start, found an error ({in_short(error)}); goes on without")
    events = Events(listeners)
    for message in notes:
        events.emit("note", message=message)
    return events
