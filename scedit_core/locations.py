"""Where a tuner's weights lie: files, released folders as they are downloaded, and the JSON beside the weights."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from .errors import TunerFileError
from .weight_files import SUFFIXES, shown

SCEPTER_FOLDER = "0_SwiftSCETuning"
SIDECARS = ("configuration.json", "adapter_config.json")
_MAX_SIDECAR = 2**20
# Names that released folders use for the one weight file inside, best first.
_STEMS = ("adapter_model", "pytorch_model", "pytorch_scedit_weights", "diffusion_pytorch_model", "model")


def tuner_path(path: str | os.PathLike, name: str | None = None) -> Path:
    """The weight file that `path` means: itself, or the one inside a released folder.

    Where a folder holds a folder for each of several tuners, `name` chooses one.  Raises TunerFileError.
    """
    if not os.fspath(path):
        raise TunerFileError("tuner: expected the path of a file or folder, found an empty one; name it")
    path = Path(path)
    try:
        return _tuner_path(path, name)
    except TunerFileError:
        raise
    except (OSError, ValueError) as error:  # no permission, a loop of links, a name with a null byte
        raise TunerFileError(
            f"{shown(path)}: expected a tuner file or folder, found {type(error).__name__} when it was opened; check "
            "the path, and its permissions"
        ) from error


def _tuner_path(path: Path, name: str | None) -> Path:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise TunerFileError(
                f"{shown(path)}: expected a tuner file ({', '.join(SUFFIXES)}), found {path.suffix or 'no ending'}; "
                "choose the weight file itself"
            )
        return path
    if not path.is_dir():
        raise TunerFileError(f"{shown(path)}: expected a tuner file or folder, found nothing there; check the path")
    loose = loose_files(path)
    if loose:
        raise TunerFileError(
            f"{shown(path)}: expected one tuner, found {len(loose)} files; name one of them, such as "
            f"{', '.join(shown(each.name) for each in loose[:8])}"
        )
    found = _weight_file(path)
    if found is not None:
        return found
    inner = _inner_folders(path)
    if len(inner) == 1 or name in inner:
        return _tuner_path(path / (inner[0] if len(inner) == 1 else name), None)
    if inner:
        raise TunerFileError(
            f"{shown(path)}: expected the name of one tuner, found {name or 'none'}; "
            f"choose one of {', '.join(shown(n) for n in inner[:8])}"
        )
    raise TunerFileError(
        f"{shown(path)}: expected a folder with a tuner file, found none; choose the folder that holds it"
    )


def folder_names(path: str | os.PathLike) -> list[str]:
    """The folders of tuners to choose from in a folder that has no weight file of its own; [] for anything else."""
    path = Path(path)
    with contextlib.suppress(OSError, ValueError):
        if path.is_dir() and _weight_file(path) is None:
            return _inner_folders(path)
    return []


def read_sidecars(weights: Path) -> dict[str, Any]:
    """What the JSON files beside the weights say, by file name.  Never required, and empty where unreadable."""
    said: dict[str, Any] = {}
    for name in SIDECARS:
        beside = weights.parent / name
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if beside.is_file() and beside.stat().st_size <= _MAX_SIDECAR:
                content = json.loads(beside.read_text("utf-8"))
                if isinstance(content, dict):
                    said[name] = content
    return said


def weight_files(folder: Path) -> list[Path]:
    """Files of weights in a folder, the one that is loaded first; [] where there is no folder."""
    if not folder.is_dir():
        return []
    files = [f for f in folder.iterdir() if f.is_file() and f.suffix.lower() in SUFFIXES]
    known = [stem + suffix for stem in _STEMS for suffix in SUFFIXES]
    return sorted(files, key=lambda f: (known.index(f.name) if f.name in known else len(known), f))


def _inner_folders(path: Path) -> list[str]:
    """Folders with a weight file each; of a released folder the one with the tuner, beside which a LoRA may stand."""
    names = sorted(inner.name for inner in path.iterdir() if inner.is_dir() and _weight_file(inner) is not None)
    return [SCEPTER_FOLDER] if SCEPTER_FOLDER in names else names


def loose_files(path: str | os.PathLike) -> list[Path]:
    """The files of a folder where several tuners lie side by side, under names of their own; [] for anything else."""
    with contextlib.suppress(OSError, ValueError):
        files = weight_files(Path(path)) if os.fspath(path) else []
        return files if len(files) > 1 and files[0].stem not in _STEMS else []
    return []


def _weight_file(folder: Path) -> Path | None:
    return next(iter(weight_files(folder)), None)
