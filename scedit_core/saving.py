"""Writing files, tuners above all: whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .errors import TunerFileError
from .tuners import CSCTuner, SCTuner
from .weight_files import first_line, shown

FORMAT_VERSION = "1"


def save_tuner(
    tuner: SCTuner | CSCTuner,
    path: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Save in the pack's own format, with the tuner's metadata extended by `metadata`; returns the path.

    The file is written beside its place and renamed, so an interrupted save leaves the old file whole.
    Raises TunerFileError where it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise TunerFileError(
            f"{shown(path)}: expected a file name that ends in .safetensors, found {path.suffix or 'no ending'}; "
            "rename it"
        )
    tensors = {k: cast(k, v.detach().cpu(), dtype).contiguous() for k, v in tuner.to_file().items()}
    notes = {**tuner.metadata, **{k: str(v) for k, v in (metadata or {}).items()}, **_own_metadata(tuner)}

    def write(place: str) -> None:
        save_file(tensors, place, notes)
        _order_metadata(place)

    return write_whole(path, write)


def cast(name: str, weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A weight in the dtype of a new file, None for its own.  Raises TunerFileError where it does not fit into that."""
    made = weight.to(dtype or weight.dtype)
    if made.dtype != weight.dtype and weight.isfinite().all() and not made.isfinite().all():
        raise TunerFileError(
            f"dtype: expected weights that fit into {str(dtype).removeprefix('torch.')}, found {name} beyond it; "
            "choose bfloat16 or float32 (nothing was written)"
        )
    return made


def path_inside(folder: str, name: str) -> str:
    """The path of a new file of that name in a folder, a real path, or below it; the ending is added.

    Raises TunerFileError for a name that leads out of it.
    """
    name = name.strip().removesuffix(".safetensors")
    path = os.path.realpath(os.path.join(folder, name.replace("\0", "") + ".safetensors"))
    if not os.path.basename(name) or not path.startswith(folder + os.sep) or "\0" in name:
        raise TunerFileError(
            f"name: expected a file name inside {folder}, found {name[:80]!r}; write one without leading folders"
        )
    return path


def write_whole(path: Path, write: Callable[[str], object]) -> Path:
    """Let `write` fill a file beside `path`, then rename it to `path`, making the folder where it is missing.

    Raises TunerFileError where that fails; what was at `path` is then as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = new_file(path.parent, f".{path.stem[:60]}.", ".tmp")
        mode = os.stat(temporary).st_mode & 0o777
        write(temporary)
        os.chmod(temporary, mode)  # a library may have made the file anew, for its owner alone
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        temporary = None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        held = isinstance(error, PermissionError)
        advice = "close what has it open, or choose another name or" if held else "free space or choose another"
        raise TunerFileError(
            f"{shown(path)}: expected to write the file there, found that it could not be ({first_line(error)}); "
            f"{advice} folder"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return path


def replace_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a file that is then renamed to `path`, for what others look at meanwhile; returns the path.

    The folder is made where it is missing.  Raises OSError where any of it cannot be done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)
    return path


def new_file(folder: Path, prefix: str, suffix: str) -> str:
    """Make an empty file of a name that is not taken, with the permissions that any new file of the user gets."""
    while True:
        path = folder / f"{prefix}{secrets.token_hex(6)}{suffix}"
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return str(path)


def _order_metadata(path: str) -> None:
    """Sort the metadata of a file that was just written: safetensors takes another order each time, and the same tuner
    would be another file."""
    with open(path, "rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= size:  # spaces behind it are part of the format
            file.seek(8)
            file.write(text.ljust(size))


def _own_metadata(tuner: SCTuner | CSCTuner) -> dict[str, str]:
    return {
        "scedit.format": FORMAT_VERSION,
        "scedit.kind": tuner.kind,
        "scedit.channels": json.dumps(list(tuner.layout.channels)),
        "scedit.strides": json.dumps(list(tuner.layout.strides)),
        "scedit.family": tuner.layout.family,
    }
