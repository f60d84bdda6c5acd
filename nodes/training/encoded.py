"""Encoded pictures and captions in files, so that a set may be larger than the memory."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ...scedit_core.errors import DataError, in_short


class Encoded:
    """A folder of files with tensors, of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self.remove()  # what a killed run has left

    def keep(self, **tensors: Tensor | None) -> Path:
        """Write the tensors that there are into a file of their own.  Raises DataError where there is no room."""
        path = self._folder / f"{self._count:06d}.safetensors"
        self._count += 1
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({name: t.contiguous() for name, t in tensors.items() if t is not None}, path)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self._folder}: expected room for the encoded pictures, found none ({in_short(error)}); free "
                "some space"
            ) from error
        return path

    def remove(self) -> None:
        """Remove the folder, as far as the system lets go of it."""
        shutil.rmtree(self._folder, ignore_errors=True)
