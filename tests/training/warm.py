"""Processes that begin with the trainer's packages imported and nothing else done; without that, each takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]


def processes(*folders: Path):
    """The context that starts them; what they run is looked for in `folders` besides the usual places."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm_imports"])
    # Python 3.11's fork server looks for what it imports in PYTHONPATH alone, and passes over what it does not find.
    paths = os.pathsep.join(map(str, (ROOT, Path(__file__).parent, *folders)))
    with mock.patch.dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    return context


def check() -> None:
    """The first thing in such a process; raises where the fork server has not imported the trainer."""
    if "warm_imports" not in sys.modules:
        raise RuntimeError(
            "the fork server has not imported the trainer: python tests/training/warm_imports.py says why"
        )
    # torch replaces its pool of threads in a copy at first use, and two threads that come at once find none.
    sys.modules["torch"].set_num_threads(1)


class Started:
    """Python code as a process of its own, by the names that subprocess.Popen has.

    command: as for Popen, an interpreter with its options, "-c", code, and arguments; the options are not looked at.
    stdin: a pipe where subprocess.PIPE is given, else nothing.  stdout: a file; both outputs go there.
    """

    def __init__(self, command, cwd=None, env=None, stdin=None, stdout=None, stderr=None) -> None:
        at = command.index("-c")
        reading, self.stdin = multiprocessing.Pipe(duplex=False) if stdin is subprocess.PIPE else (None, None)
        arguments = (command[at + 1], command[at + 2 :], cwd, env, reading, stdout.name)
        self._process = processes().Process(target=_run, args=arguments)
        self._process.start()
        if reading is not None:
            reading.close()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status once it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status; raises subprocess.TimeoutExpired where it does not end in time."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a warm process", timeout)
        return self._process.exitcode

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    terminate = kill


def run_code(code: str, *arguments: object, cwd: Path = ROOT, timeout: float = 550) -> subprocess.CompletedProcess:
    """Run it to its end, without PYTHONPATH; gives status and output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COMFYUI_PATH")}
    with tempfile.NamedTemporaryFile() as output:
        command = ["-c", code, *map(str, arguments)]
        status = Started(command, cwd=cwd, env=environment, stdout=output).wait(timeout)
        return subprocess.CompletedProcess(command, status, Path(output.name).read_text("utf-8", "replace"))


def _run(code: str, arguments: list[str], cwd: Path | None, env: dict | None, stdin, output: str) -> None:
    check()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin.fileno(), 0)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    os.chdir(cwd or ROOT)
    host = os.environ.get("SCEDIT_TEST_HOST", os.devnull)
    own = [path for path in sys.path if not path.startswith((host, str(ROOT / "tests" / "host")))]
    sys.path[:] = ["", *own]  # as an interpreter with -c has it, wherever the tests were started
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
