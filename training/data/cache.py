"""Encoded data on disk, each entry in a file of its own under a key that changes with whatever it depends on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from scedit_core.errors import TrainingError
from scedit_core.saving import new_file

CODE_VERSION = 1  # to be raised with every change of what an entry holds for the same key parts
_CHECKSUM = "crc32"
_ROOM = 8  # times the bytes of a PNG that pixels may take as they are


class DamagedEntry(Exception):
    """An entry is missing or is not what was written; it has to be made again."""


def cache_key(*parts: object) -> str:
    """32 hexadecimal digits for what an entry depends on; `parts` are anything that JSON can hold."""
    text = json.dumps([CODE_VERSION, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Cache:
    """Entries in `folder`/`kind`/, readable and writable by several processes at once.

    An entry is written under another name and then renamed, so that it is whole or not there.  Every entry carries a
    checksum; that of a PNG follows its end, where viewers do not look.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tensors_path(self, kind: str, key: str) -> Path:
        """Where tensors lie."""
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def picture_path(self, kind: str, key: str) -> Path:
        """Where a picture lies."""
        return self.folder / kind / key[:2] / f"{key}.png"

    def write_tensors(self, kind: str, key: str, tensors: dict[str, Tensor]) -> int:
        """Store tensors, on the CPU; returns the bytes of the file.  Raises TrainingError where the disk refuses."""
        data = _packed(tensors)
        with self._writing(self.tensors_path(kind, key)) as file:
            file.write(data)
        return len(data)

    def read_tensors(self, kind: str, key: str) -> dict[str, Tensor]:
        """What `write_tensors` stored.  Raises DamagedEntry."""
        try:
            data = self.tensors_path(kind, key).read_bytes()
            head = 8 + int.from_bytes(data[:8], "little")
            told = json.loads(data[8:head])["__metadata__"][_CHECKSUM]
            if told != _checksum(data[head:]):
                raise DamagedEntry(key)
            return safetensors.torch.load(data)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DamagedEntry(key) from error

    def write_picture(self, kind: str, key: str, image: Image.Image) -> None:
        """Store an RGB or L picture; one whose channels are equal is stored as L.  Raises TrainingError (see above)."""
        self._write_png(kind, key, _png(_without_equal_channels(image)))

    def read_picture(self, kind: str, key: str, mode: str | None = "RGB") -> Image.Image:
        """What `write_picture` stored, in `mode`, None for RGB or L as it is.  Raises DamagedEntry."""
        try:
            data = self.picture_path(kind, key).read_bytes()
            if data[-8:] != _checksum(data[:-8]).encode():  # Pillow itself does not look at those of a PNG
                raise DamagedEntry(key)
            with Image.open(io.BytesIO(data)) as image:
                return image.convert(mode)
        except OSError as error:
            raise DamagedEntry(key) from error

    def pixels_paths(self, kind: str, key: str) -> tuple[Path, Path]:
        """Where pixels may lie: as they are, or as a PNG."""
        return self.tensors_path(kind, key), self.picture_path(kind, key)

    def write_pixels(self, kind: str, key: str, image: Image.Image) -> None:
        """Store an RGB or L picture that is read in every step: as it is, since a photograph takes a PNG thirty times
        as long to read, but where that would take many times the room.  Raises TrainingError (see above)."""
        image = _without_equal_channels(image)
        pixels = np.atleast_3d(np.array(image)).transpose(2, 0, 1)
        data = _png(image)
        if len(data) * _ROOM < pixels.size:
            self._write_png(kind, key, data)
        else:
            self.write_tensors(kind, key, {"pixels": torch.from_numpy(pixels)})

    def _write_png(self, kind: str, key: str, data: bytes) -> None:
        with self._writing(self.picture_path(kind, key)) as file:
            file.write(data + _checksum(data).encode())

    def read_pixels(self, kind: str, key: str) -> Tensor:
        """What `write_pixels`, or `write_picture` before it, stored: uint8 [3,H,W].  Raises DamagedEntry."""
        if self.tensors_path(kind, key).is_file():
            return self.read_tensors(kind, key)["pixels"].expand(3, -1, -1)
        pixels = np.atleast_3d(np.array(self.read_picture(kind, key, None), np.uint8))
        return torch.from_numpy(pixels).permute(2, 0, 1).expand(3, -1, -1)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[BinaryIO]:
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = new_file(path.parent, ".", ".part")
            with open(temporary, "wb") as file:
                yield file
            os.replace(temporary, path)
            temporary = None
        except PermissionError:
            if not path.is_file():  # on Windows a file that another process reads cannot be replaced: it is the same
                raise
        except OSError as error:
            reason = "a full disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
            raise TrainingError(
                f"{self.folder}: expected room for the cache, found {reason}; choose another data.cache"
            ) from error
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.remove(temporary)


def tensors_size(shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes of an entry with float32 tensors of these shapes."""
    return len(_packed({name: torch.zeros(shape) for name, shape in shapes.items()}))


def _without_equal_channels(image: Image.Image) -> Image.Image:
    """An RGB or L picture, as L where its channels are equal."""
    pixels = np.asarray(image)
    grey = pixels.ndim == 3 and (pixels == pixels[..., :1]).all()
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0])) if grey else image


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()


def _packed(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file whose metadata has a checksum of its data; its length depends on the shapes alone."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    plain = safetensors.torch.save(tensors, {_CHECKSUM: "0" * 8})
    head = 8 + int.from_bytes(plain[:8], "little")
    data = plain[head:]
    return plain[:head].replace(b'"' + b"0" * 8 + b'"', f'"{_checksum(data)}"'.encode(), 1) + data


def _checksum(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"
