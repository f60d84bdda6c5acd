"""The folder of a run: its lock, and the wishes to stop or save that reach it from outside."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import TrainingError

STOP, SAVE = "stop", "save"


class Stopped(Exception):
    """A wish to stop was seen; `args[0]` says whose."""


class RunFolder:
    """Where a run keeps its checkpoints, events, previews, caches and report."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._signal: str | None = None

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The tuner with the lowest validation loss so far."""
        return self.path / "best.safetensors"

    def stop_wish(self) -> str | None:
        """Who wants the run to stop after this step, or None.  The file is removed when it has been heard."""
        if self._signal:
            return self._signal
        return "a stop file" if self._heard(STOP) else None

    def save_wish(self) -> bool:
        """Whether a checkpoint is wanted now; to be asked by the process that saves, since it is heard once."""
        return self._heard(SAVE)

    def check(self, *_args, **_values) -> None:
        """Raise Stopped where there is a wish to stop; for long work that may be left at any point.

        The file stays for other processes, until a run starts here again.
        """
        wish = self._signal or ("a stop file" if (self.path / STOP).exists() else None)
        if wish:
            raise Stopped(wish)

    def _heard(self, name: str) -> bool:
        file = self.path / name
        try:
            file.unlink()
        except OSError:
            return False
        return True

    def _on_signal(self, number: int, _frame) -> None:
        if self._signal:  # a second one does not wait for the end of the step
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


@contextlib.contextmanager
def open_run(path: Path, main_process: bool = True) -> Iterator[RunFolder]:
    """Make the folder, lock it and listen to SIGINT and SIGTERM while the context is open.

    The lock is the operating system's, so that a killed run leaves none behind.  Raises TrainingError where another
    run holds it or the folder cannot be made.
    """
    run = RunFolder(path)
    try:
        _make(path)
        lock = FileLock(path / "lock", timeout=0) if main_process else contextlib.nullcontext()
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock)
            if main_process:
                (path / STOP).unlink(missing_ok=True)  # a wish from before this run
            _listen(run, stack)
            yield run
    except Timeout as error:
        raise TrainingError(
            f"{path}: expected a run folder that no other run uses, found it locked; "
            "wait for the other run, stop it, or set `run` to another folder"
        ) from error
    except PermissionError as error:
        raise TrainingError(
            f"{error.filename or path}: expected a folder that can be written, found none ({error.strerror}); "
            "choose another place"
        ) from error


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        raise
    except OSError as error:  # a file of that name, a name that is too long, ...
        raise TrainingError(
            f"{path}: expected a folder for the run, found that none can be made ({error.strerror}); set `run` to "
            "another one"
        ) from error


def _listen(run: RunFolder, stack: contextlib.ExitStack) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            before = signal.signal(number, run._on_signal)
        except ValueError:  # only the main thread may listen
            return
        stack.callback(signal.signal, number, before)
