"""Runs the tests of this folder once for each host found, each in a process of its own.

    python tests/host/run.py [arguments for pytest]

A host is a ComfyUI checkout: those in COMFYUI_PATH (several separated by the system's path separator), else
~/comfy/ComfyUI* and the folders above this pack.  Exits 0 where all pass and also, with a loud line, where there is no
host; 1 where a test fails, or where a host cannot run because a requirement of its own is missing.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
RULE = "=" * 100
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
    """Run all hosts and print one line for each at the end.  Returns the exit status."""
    found = hosts()
    if not found:
        print(f"{RULE}\nNOT TESTED ON A HOST: no ComfyUI checkout in ~/comfy or above {PACK}.")
        print(f"Clone ComfyUI and name it in COMFYUI_PATH, then run this again.\n{RULE}")
        return 0
    results = []
    for host in found:
        title = f"ComfyUI {'.'.join(map(str, version(host)))} in {host}"
        print(f"{RULE}\n{title}\n{RULE}", flush=True)
        absent = missing(host)
        if absent:
            print(f"NOT TESTED on {title}: its requirements are missing here: {', '.join(absent)}.")
            print(f"Install them with: {sys.executable} {HERE / 'install_requirements.py'}", flush=True)
            results.append((title, "NOT TESTED, requirements missing", 1))
            continue
        begun = time.monotonic()
        with_server = host == found[-1] or not unsatisfied(requirements(host))
        environment = {**os.environ, "SCEDIT_TEST_HOST": str(host), "SCEDIT_TEST_SERVER": str(int(with_server))}
        environment.pop("PYTHONPATH", None)  # the pack's root ahead of the host's would hide the host's nodes.py
        command = [sys.executable, "-m", "pytest", "-c", str(HERE / "pytest.ini"), *(arguments or [str(HERE)])]
        status = subprocess.run(command, cwd=HERE, env=environment, check=False).returncode
        outcome = "passed" if status == 0 else f"FAILED (pytest exit status {status})"
        results.append((title, f"{outcome} in {time.monotonic() - begun:.0f} s", status))
    print(RULE)
    for title, outcome, _ in results:
        print(f"{outcome:<40} {title}")
    print(RULE)
    return 1 if any(status for *_, status in results) else 0


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


def _is_host(path: Path) -> bool:
    return all((path / name).is_file() for name in ("comfyui_version.py", "folder_paths.py", "nodes.py"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
