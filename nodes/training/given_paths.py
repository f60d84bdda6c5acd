"""What widgets of the training nodes name: files and folders, from ComfyUI's input folder on where not from a root."""

from __future__ import annotations

import contextlib
import hashlib
import os

import folder_paths


def inside_input(path: str) -> str:
    """A path as it is, or one that starts at the host's input folder; empty where there is none."""
    path = path.strip().strip('"')  # as Windows copies a path
    return os.path.join(folder_paths.get_input_directory(), os.path.expanduser(path)) if path else ""


def contents(path: str) -> str:
    """Changes when a file, or the list of files in and below a folder, their sizes or times do."""
    if not path:
        return "none"
    found = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names] or [path]
    digest = hashlib.sha256()
    for each in sorted(found):
        with contextlib.suppress(OSError):
            state = os.stat(each)
            digest.update(f"{each} {state.st_size} {state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
