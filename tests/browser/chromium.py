"""Headless Chromium on the host's page, by way of page.mjs and npm's playwright-core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


class NoBrowser(Exception):
    """Chromium, Node.js or playwright-core is not on this machine; the message says which."""


def requirements() -> dict[str, str]:
    """The environment that page.mjs needs.  Raises NoBrowser.

    Chromium is found on PATH or in CHROMIUM; playwright-core in the folder that PLAYWRIGHT_FROM names (the one that
    holds node_modules), else in ~/browser or in this repository's folder.
    """
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium or not shutil.which("node"):
        raise NoBrowser("Chromium and Node.js are needed on PATH")
    places = [Path(os.environ[n]) for n in ("PLAYWRIGHT_FROM",) if n in os.environ]
    for place in [*places, Path("~/browser").expanduser(), HERE.parents[1]]:
        if (place / "node_modules" / "playwright-core").is_dir():
            return {"CHROMIUM": chromium, "PLAYWRIGHT_FROM": str(place)}
    raise NoBrowser("playwright-core is needed: npm install playwright-core, in the folder that PLAYWRIGHT_FROM names")


def visit(url: str, tasks: list[dict], folder: Path, seconds: float = 300) -> list[dict]:
    """Do `tasks` (see page.mjs) on the page at `url`; gives their results in order."""
    environment = {**os.environ, **requirements()}
    asked, answered = folder / "tasks.json", folder / "results.json"
    asked.write_text(json.dumps(tasks))
    command = ["node", str(HERE / "page.mjs"), url, str(asked), str(answered)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"page.mjs failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(answered.read_text())
