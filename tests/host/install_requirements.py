"""Installs what the hosts found need to run here, without touching torch, torchvision and torchaudio.

    python tests/host/install_requirements.py

Oldest host first, newest last, so that the newest host's pins hold in the end: its server runs here, while older hosts
are only imported.  Does nothing where all is there already.
"""

from __future__ import annotations

import subprocess
import sys

from run import hosts, missing, requirements, unsatisfied, version


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


if __name__ == "__main__":
    sys.exit(main())
