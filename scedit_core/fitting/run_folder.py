"""The folder of a run: its lock, and the wishes to stop or save that reach it from outside."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import TrainingError

STOP, SAVE = "stop", "save"
_TICK = 0.05  # seconds by which the clock of a disk may be behind


class Stopped(Exception):
    """A wish to stop was seen; `args[0]` says whose."""


class RunFolder:
    """Where a run keeps its checkpoints, events, previews, caches and report."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_open = True  # else it is only looked at, and hears no wishes
        self._signal: str | None = None
        self._beside: RunFolder | None = None  # another run of this process, opened before, which hears signals too

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The tuner with the lowest validation loss so far."""
        return self.path / "best.safetensors"

    def forget_wishes(self, since: float) -> None:
        """Remove a wish to stop that is older than `since`: it was for an earlier run."""
        file = self.path / STOP
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < since - _TICK:
                file.unlink()

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
        if wish and self.is_open:
            raise Stopped(wish)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """While open, whatever else interrupts the work raises Stopped; here nothing does."""
        yield

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
        if self._beside is not None:
            self._beside._on_signal(number, _frame)


@contextlib.contextmanager
def open_run(
    path: Path, output: Path | None = None, main_process: bool = True, since: float | None = None
) -> Iterator[RunFolder]:
    """Make the folder, lock it and the tuner's file, and listen to SIGINT and SIGTERM while the context is open.

    since: when the run was asked for, in seconds since 1970; a wish to stop counts from then on.  By default now.

    The locks are the operating system's, so that a killed run leaves none behind.  Raises TrainingError where another
    run holds one or the folder cannot be made.
    """
    run = RunFolder(path)
    since = time.time() if since is None else since
    try:
        _make(path)
        with contextlib.ExitStack() as stack:
            if main_process:
                stack.enter_context(FileLock(path / "lock", timeout=0))
                if output is not None:
                    stack.enter_context(_held(output))
                run.forget_wishes(since)
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


@contextlib.contextmanager
def _held(output: Path) -> Iterator[None]:
    """The lock of a tuner's file: two runs with folders of their own would otherwise deliver one over the other.

    It lies where the system keeps what is of no use later, and holds on this machine.
    """
    mark = hashlib.blake2b(str(output.resolve()).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    lock = FileLock(Path(tempfile.gettempdir(), f"scedit-{mark}.lock"), timeout=0)
    try:
        with contextlib.suppress(PermissionError):  # another user's, who trained this file before
            lock.acquire()
    except Timeout as error:
        raise TrainingError(
            f"{output}: expected an output that no other run trains, found one that does; wait for the other run, "
            "stop it, or set `output` to another file"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _listen(run: RunFolder, stack: contextlib.ExitStack) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            before = signal.signal(number, run._on_signal)
        except ValueError:  # only the main thread may listen
            return
        run._beside = getattr(before, "__self__", None) if getattr(before, "__name__", "") == "_on_signal" else None
        stack.callback(signal.signal, number, before)
