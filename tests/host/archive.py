"""The archive that the registry serves: the repository's files without those that .comfyignore names."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from conftest import PACK_ROOT


def published_files() -> list[str]:
    """Paths of the files that are published.  Raises RuntimeError outside a git checkout."""
    tracked = set(_git("ls-files"))
    ignored = set(_git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"))
    return sorted(path for path in tracked - ignored if (PACK_ROOT / path).is_file())


def write_archive(path: Path) -> Path:
    """Pack the published files as the registry's tool does."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in published_files():
            archive.write(PACK_ROOT / name, name)
    return path


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=PACK_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{PACK_ROOT}: expected a git checkout, found {done.stderr.strip()}")
    return done.stdout.splitlines()
