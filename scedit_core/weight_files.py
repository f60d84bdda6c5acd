"""Weight files: what tensors a file holds, told from its header, and the tensors, mapped into memory when asked for.

Every file is treated as hostile.  Sizes are checked before anything is read, and of a pickle nothing is executed: it
is scanned for what it would call before `torch.load(weights_only=True)` sees it.
"""

from __future__ import annotations

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .errors import TunerFileError

PICKLES = (".bin", ".pth", ".pt", ".ckpt")
SUFFIXES = (".safetensors", *PICKLES)
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# A tuner has about a hundred tensors and a header of 20 KB; what is far beyond that is no tuner.
_MAX_KEYS = 4096
_MAX_KEY = 512
_MAX_HEADER = 2**22
_MAX_PICKLE = 2**18
# All that the pickle of a state dict calls.  Storages are named there, but read from elsewhere in the archive.
_CALLED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
_CALLING = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}


class Entry(NamedTuple):
    """A tensor's dtype (the file's word for it, where it is none that tuners have) and shape."""

    dtype: torch.dtype | str
    shape: tuple[int, ...]


class WeightFile:
    """An open file: `entries` by key, `metadata`, and `read` for the tensors themselves.

    Raises TunerFileError where the file cannot be opened, is damaged, or is larger inside than out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._pickled: dict[str, Tensor] | None = None
        try:
            if path.suffix.lower() == ".safetensors":
                self.entries = self._open_safetensors()
            else:
                self._pickled = self._open_pickle()
                self.entries = {k: Entry(v.dtype, tuple(v.shape)) for k, v in self._pickled.items()}
            longest = max(map(len, self.entries), default=0)
            if longest > _MAX_KEY:  # formats match keys against patterns, which takes time on long ones
                raise self._damaged(f"a name of {longest} characters")
        except TunerFileError:
            raise
        except Exception as error:  # whatever a hostile file makes a parser raise, it is a bad file
            raise self._damaged(first_line(error)) from error

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of `keys`, mapped from the file: nothing is copied.  Raises TunerFileError."""
        try:
            if self._pickled is not None:
                return {k: self._pickled[k].contiguous() for k in keys}
            with safe_open(self.path, framework="pt") as opened:
                return {k: opened.get_tensor(k) for k in keys}
        except Exception as error:
            raise self._damaged(first_line(error)) from error

    def _open_safetensors(self) -> dict[str, Entry]:
        with open(self.path, "rb") as opened:
            start = opened.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
            rest = os.fstat(opened.fileno()).st_size - 8
        if length is None or length > rest:
            raise self._damaged(f"header of {length} bytes in a file of {max(rest + 8, 0)}")
        if length > _MAX_HEADER:
            raise self._damaged(f"header of {length} bytes, where a tuner has less than {_MAX_HEADER}")
        with safe_open(self.path, framework="pt") as opened:
            keys = opened.keys()
            if len(keys) > _MAX_KEYS:
                raise self._damaged(f"{len(keys)} tensors, where a tuner has less than {_MAX_KEYS}")
            self.metadata = dict(opened.metadata() or {})
            slices = {k: opened.get_slice(k) for k in keys}
            return {k: Entry(FLOATS.get(s.get_dtype(), s.get_dtype()), tuple(s.get_shape())) for k, s in slices.items()}

    def _open_pickle(self) -> dict[str, Tensor]:
        self._scan_archive()
        state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
            state = state["state_dict"]
        if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
            raise TunerFileError(
                f"{shown(self.path)}: expected a dictionary of weights, found {type(state).__name__}; "
                "choose the tuner's weight file"
            )
        tensors = {k: v.detach() for k, v in state.items() if type(v) in (Tensor, nn.Parameter)}
        for key, tensor in tensors.items():
            if tensor.layout != torch.strided or tensor.device.type != "cpu":
                raise self._damaged(f"{str(tensor.layout)[6:]} weights on {tensor.device.type} in {first_line(key)}")
        # A view can name more elements than its storage holds: reading it would fill the memory.
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        if size > self.path.stat().st_size:
            raise self._damaged(f"weights of {size} bytes in a file of {self.path.stat().st_size}")
        return tensors

    def _scan_archive(self) -> None:
        """Refuse archives that unpack to more than they are and pickles that call anything but tensors."""
        if not zipfile.is_zipfile(self.path):
            raise TunerFileError(
                f"{shown(self.path)}: expected a file that torch 1.6 or newer saved, found none or part of one; "
                "download it again, or save it again with a current torch"
            )
        with _Directory(self.path) as opened, zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
            if any(m.compress_type != zipfile.ZIP_STORED for m in members):
                raise self._damaged("compressed weights, which torch does not write")
            if sum(m.file_size for m in members) > self.path.stat().st_size:
                raise self._damaged("members that overlap")
            if any(m.filename.endswith("constants.pkl") for m in members):
                raise self._damaged("a TorchScript program")
            pickles = [m for m in members if m.filename.endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE:
                raise self._damaged(f"{len(pickles)} lists of weights of {sum(m.file_size for m in pickles)} bytes")
            program = archive.read(pickles[0])
        for opcode, argument, _ in pickletools.genops(program):
            storage = opcode.name == "GLOBAL" and argument.startswith("torch ") and argument.endswith("Storage")
            if opcode.name in _CALLING or (opcode.name == "GLOBAL" and argument not in _CALLED and not storage):
                called = argument or opcode.name
                raise TunerFileError(
                    f"{shown(self.path)}: expected weights and nothing else, found code that calls "
                    f"{first_line(called).replace(' ', '.')}; do not use this file, and get the tuner elsewhere"
                )

    def _damaged(self, found: str) -> TunerFileError:
        return TunerFileError(
            f"{shown(self.path)}: expected a whole tuner file, found one that cannot be read ({found}); "
            "download it again"
        )


class _Directory(io.FileIO):
    """A file of which an archive's directory can be read, and of that no more than a tuner's takes."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _MAX_HEADER:
            raise zipfile.BadZipFile(f"directory of {size} bytes")
        return super().read(_MAX_HEADER if size is None or size < 0 else size)


def shown(path: str | os.PathLike) -> str:
    """A path as it can be printed anywhere, in one line."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode("utf-8").replace("\n", "\\n").replace("\r", "\\r")


def first_line(error: object) -> str:
    """The first line of an error, shortened and printable."""
    line = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return line.encode("utf-8", "backslashreplace").decode("utf-8")
