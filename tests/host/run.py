"""Runs the tests of this folder once for each host found, in processes of their own, all at the same time.

    python tests/host/run.py [arguments for pytest]

A host is a ComfyUI checkout: those in COMFYUI_PATH (several separated by the system's path separator), else
~/comfy/ComfyUI* and the folders above this pack.  Tests on a host's server run in one process, which mostly waits, the
others in a second one.  Exits 0 where all pass and also, with a loud line, where there is no host; 1 where a test
fails, where the arguments choose none, or where a host cannot run because a requirement of its own is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
RULE = "=" * 100
NOTHING_CHOSEN = 5  # pytest.ExitCode.NO_TESTS_COLLECTED
# Named in requirements.txt but no part of what these tests run: pages, templates and manuals of the web interface.
WEB_ONLY = re.compile(r"comfyui[-_](frontend|workflow|embedded)", re.IGNORECASE)


def hosts() -> list[Path]:
    """The ComfyUI checkouts to test on, oldest version first."""
    named = os.environ.get("COMFYUI_PATH", "")
    if named:
        candidates = [Path(p).expanduser() for p in named.split(os.pathsep) if p]
        for path in candidates:
            if not _is_host(path):
                raise SystemExit(f"COMFYUI_PATH: expected a ComfyUI checkout, found none in {path}; correct the path")
    else:
        candidates = [*sorted(Path("~/comfy").expanduser().glob("ComfyUI*")), *PACK.parents]
    found = dict.fromkeys(path.resolve() for path in candidates if _is_host(path))
    return sorted(found, key=version)


def version(host: Path) -> tuple[int, ...]:
    """A host's version as numbers."""
    found = re.search(r"\d+(\.\d+)+", (host / "comfyui_version.py").read_text())
    return tuple(int(n) for n in found.group().split(".")) if found else (0,)


def requirements(host: Path) -> list[str]:
    """Lines of a host's requirements.txt, without comments and without torch and its companions."""
    lines = (line.split("#")[0].strip() for line in (host / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line and not re.fullmatch(r"torch(vision|audio)?([=<>~! ].*)?", line)]


def unsatisfied(lines: list[str]) -> list[str]:
    """Requirements that are not installed here in the version they ask for."""
    return [line for line in lines if not _satisfied(line)]


def missing(host: Path) -> list[str]:
    """Requirements of a host that are not installed here in any version."""
    absent = []
    for line in requirements(host):
        name = re.match(r"[A-Za-z0-9._-]+", line).group()
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if not WEB_ONLY.match(name):
                absent.append(line)
    return absent


def main(arguments: list[str]) -> int:
    """Run all hosts and print one line for each process at the end.  Returns the exit status."""
    found = hosts()
    if not found:
        print(f"{RULE}\nNOT TESTED ON A HOST: no ComfyUI checkout in ~/comfy or above {PACK}.")
        print(f"Clone ComfyUI and name it in COMFYUI_PATH, then run this again.\n{RULE}")
        return 0
    print(f"Testing on {', '.join(map(_title, found))}, at the same time; one process is shown as it goes.", flush=True)
    parts = [(host, part) for host in reversed(found) for part in _parts(host, newest=host == found[-1])]
    runs = [_Run(*each, arguments, shown=each == parts[0], share=len(parts)) for each in parts]
    while [run for run in runs if not run.ended()]:
        time.sleep(0.5)
    results = [run.finish() for run in runs]
    print(RULE)
    for title, outcome, _ in results:
        print(f"{outcome:<40} {title}")
    print(RULE)
    statuses = {status for *_, status in results}
    return 0 if statuses <= {0, NOTHING_CHOSEN} and 0 in statuses else 1


def _parts(host: Path, newest: bool) -> tuple[str, ...]:
    """What the processes on a host run: tests on its server need the web packages that it pins."""
    return ("server", "in process") if newest or not unsatisfied(requirements(host)) else ("no server",)


def _satisfied(line: str) -> bool:
    """Whether `line`, such as name>=1.2 or name==1.2, holds here; a form that is not understood counts as not."""
    parts = re.fullmatch(r"([A-Za-z0-9._-]+)\s*(?:(==|>=|~=)\s*([\w.]+))?", line)
    if parts is None:
        return False
    name, operator, wanted = parts.groups()
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if operator is None:
        return True
    if operator == "==":
        return installed == wanted
    return _numbers(installed) >= _numbers(wanted)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))


class _Run:
    """Pytest on a part of one host's tests, in a process of its own that starts at once."""

    def __init__(self, host: Path, part: str, arguments: list[str], shown: bool, share: int) -> None:
        self.title, self.begun, self.process = f"{_title(host)}, {part}", time.monotonic(), None
        self.seconds: float | None = None
        self.absent = missing(host)
        if self.absent:
            return
        environment = {**os.environ, "SCEDIT_TEST_HOST": str(host), "SCEDIT_TEST_PART": part}
        environment.pop("PYTHONPATH", None)  # the pack's root ahead of the host's would hide the host's nodes.py
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // share)))
        command = [sys.executable, "-m", "pytest", "-c", str(HERE / "pytest.ini"), *(arguments or [str(HERE)])]
        self.output = None if shown else tempfile.TemporaryFile("w+")  # noqa: SIM115, closed in finish
        if shown:
            print(f"{RULE}\n{self.title}\n{RULE}", flush=True)
        self.process = subprocess.Popen(
            command, cwd=HERE, env=environment, stdout=self.output, stderr=subprocess.STDOUT if self.output else None
        )

    def ended(self) -> bool:
        """Whether it is over; notes how long it took when first asked after that."""
        over = self.process is None or self.process.poll() is not None
        if over and self.seconds is None:
            self.seconds = time.monotonic() - self.begun
        return over

    def finish(self) -> tuple[str, str, int]:
        """After its end: show what was not shown yet; gives title, outcome and exit status."""
        if self.process is None:
            print(f"{RULE}\nNOT TESTED on {self.title}: its requirements are missing here: {', '.join(self.absent)}.")
            print(f"Install them with: {sys.executable} {HERE / 'install_requirements.py'}", flush=True)
            return self.title, "NOT TESTED, requirements missing", 1
        status = self.process.returncode
        if self.output is not None:
            self.output.seek(0)
            print(f"{RULE}\n{self.title}\n{RULE}\n{self.output.read()}", flush=True)
            self.output.close()
        outcome = {0: "passed", NOTHING_CHOSEN: "nothing chosen"}.get(status, f"FAILED (pytest exit status {status})")
        return self.title, f"{outcome} in {self.seconds:.0f} s", status


def _title(host: Path) -> str:
    return f"ComfyUI {'.'.join(map(str, version(host)))} in {host}"


def _is_host(path: Path) -> bool:
    return all((path / name).is_file() for name in ("comfyui_version.py", "folder_paths.py", "nodes.py"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
