"""Installs what the hosts found need to run here, without touching torch, torchvision and torchaudio.

    python tests/host/install_requirements.py

Oldest host first, newest last, so that the newest host's pins hold in the end: its server runs here, while older hosts
are only imported.  Does nothing where all is there already.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

from run import hosts, missing, requirements, version


def unsatisfied(lines: list[str]) -> list[str]:
    """Requirements that are not installed here in the version they ask for."""
    return [line for line in lines if not _satisfied(line)]


def main() -> int:
    """Install for each host.  Returns pip's exit status where it fails."""
    found = hosts()
    for host in found:
        newest = host == found[-1]
        wanted = unsatisfied(requirements(host)) if newest else missing(host)
        title = ".".join(map(str, version(host)))
        if not wanted:
            print(f"ComfyUI {title}: all requirements are installed")
            continue
        print(f"ComfyUI {title}: installing {', '.join(wanted)}", flush=True)
        status = subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=False).returncode
        if status:
            return status
    if not found:
        print("no ComfyUI checkout found; name one in COMFYUI_PATH")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
