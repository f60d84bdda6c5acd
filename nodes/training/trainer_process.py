"""The trainer as a process of its own, and what it says of itself in its run folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths

from ...scedit_core import SCEditError

PACK = Path(__file__).resolve().parents[2]
REQUIREMENTS = PACK / "requirements" / "train-in-comfyui.txt"
# Runs `python -m training` of the pack's root, which Python's embedded builds for Windows do not put on their path.
# Standard input ends when the host does, however that comes about: the trainer is then asked to save and stop.
_START = """
import os, pathlib, runpy, sys, threading

root, stop = sys.argv[1:3]
del sys.argv[1:3]

def watch():
    while os.read(0, 1):
        pass
    pathlib.Path(stop).touch()

threading.Thread(target=watch, daemon=True).start()
sys.path.insert(0, root)
runpy.run_module("training", run_name="__main__", alter_sys=True)
"""
_STOP_SECONDS = 300  # a step, a preview that is being drawn, and a checkpoint on a slow disk
_END_SECONDS = 20


def missing_requirements() -> list[str]:
    """What the trainer needs and this Python lacks, as lines of requirements/train-in-comfyui.txt."""
    from packaging.requirements import Requirement  # a tenth of a second at the host's start, and used when training

    def installed(wanted: Requirement) -> bool:
        try:
            return wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True)
        except importlib.metadata.PackageNotFoundError:
            return False

    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text("utf-8").splitlines())
    return [line for line in lines if line and not installed(Requirement(line))]


def check_requirements() -> None:
    """Raise SCEditError with the command that installs what is missing."""
    missing = missing_requirements()
    if missing:
        raise SCEditError(
            "training: expected the trainer's packages in ComfyUI's Python, found some missing; run the next line, "
            f'and restart ComfyUI\n"{sys.executable}" -m pip install -r "{REQUIREMENTS}"\n'
            f"(missing: {', '.join(missing)})"
        )


class TrainingProcess:
    """`python -m training train CONFIG`, from its start to its end.

    config: the YAML file.  run: the run folder that it names.  resume: whether to go on from the last checkpoint.
    on_cpu: whether the trainer must leave a GPU alone, as its host does.
    Raises SCEditError where it cannot be started.
    """

    def __init__(self, config: Path, run: Path, resume: bool, on_cpu: bool) -> None:
        self.run, self.log, self._stop = run, run / "log.txt", run / "stop"
        self._events, self._unread, self._file = run / "events.jsonl", b"", 0
        try:
            run.mkdir(parents=True, exist_ok=True)
            alone = _is_free(run)  # else the trainer says so; what is there is another's
            if alone:
                self._stop.unlink(missing_ok=True)  # a wish that an earlier run did not hear
            if self._events.exists():
                state = self._events.stat()
                self._file, self._read = state.st_ino, state.st_size
            else:
                self._read = 0
            with open(self.log, "wb" if alone else "ab") as log:
                self._process = subprocess.Popen(
                    self._command(config, resume),
                    cwd=PACK,
                    env=_environment(on_cpu),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        except OSError as error:
            raise SCEditError(
                f"{run}: expected to start the trainer there, found {error}; free some space, or start ComfyUI with "
                "another output folder"
            ) from error

    def _command(self, config: Path, resume: bool) -> list[str]:
        # As this Python was started, so that the trainer finds the packages that were found here.
        asked = {"-s": sys.flags.no_user_site, "-E": sys.flags.ignore_environment, "-I": sys.flags.isolated}
        flags = ["-u", "-X", "utf8", *(flag for flag, given in asked.items() if given)]
        train = ["train", str(config), "--resume", "auto" if resume else "never"]
        return [sys.executable, *flags, "-c", _START, str(PACK), str(self._stop), *train]

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status once it has ended."""
        return self._process.poll()

    def events(self) -> list[dict[str, Any]]:
        """What it has reported since the last call, oldest first."""
        try:
            with open(self._events, "rb") as file:
                state = os.fstat(file.fileno())
                if state.st_size < self._read or state.st_ino != self._file:  # a run that began anew began a new file
                    self._read, self._unread, self._file = 0, b"", state.st_ino
                file.seek(self._read)
                new = file.read()
        except OSError:
            return []
        self._read += len(new)
        *lines, self._unread = (self._unread + new).split(b"\n")
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    found.append(event)
        return found

    def stop(self, at_once: Callable[[], bool], trained: bool = True) -> None:
        """Ask it to save a checkpoint and end, and wait until it has.

        at_once: asked again and again; once it says yes, the trainer is ended without waiting for a checkpoint.
        trained: whether there may be steps to save; else it is told to leave what it prepares.
        """
        with contextlib.suppress(OSError):
            self._stop.touch()
        if not trained and self.running:
            self._process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        while self.running and time.monotonic() < deadline:
            if at_once():
                self._process.kill()
            time.sleep(0.2)
        self.end()

    def end(self) -> None:
        """End it where it still runs: by a signal, which it hears as a wish to save and stop, then by force."""
        for signal in (self._process.terminate, self._process.kill):
            if self.running:
                signal()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_END_SECONDS)
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def failure(self) -> str:
        """The trainer's own sentence for its failure, or what its output ends with."""
        try:
            lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        for line in reversed(lines):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
        status, last = self.status, (lines[-1] if lines else "nothing")
        if status is not None and status < 0:
            last = f"signal {-status}, which the system sends for instance when memory is used up"
        return f"training: expected it to finish, found that it ended with {last[:300]}; read {self.log}"


def _is_free(run: Path) -> bool:
    """Whether no other trainer has this run folder now."""
    from filelock import FileLock, Timeout  # which torch needs too

    try:
        with FileLock(run / "lock", timeout=0):
            return True
    except Timeout:
        return False


def _environment(on_cpu: bool) -> dict[str, str]:
    # PYTHONPATH stays: packages that were found there are the trainer's too, and the pack comes before them.
    environment = dict(os.environ)
    environment["COMFYUI_PATH"] = str(Path(folder_paths.__file__).parent)  # where the tokenizer is found
    environment["SCEDIT_STOP_SINCE"] = "0"  # earlier wishes to stop are gone: all that come are for this run
    if on_cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment
