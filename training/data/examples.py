"""What a training set is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scedit_core.pictures.framing import Framing, Size


@dataclass(frozen=True)
class Partner:
    """A hint or mask in a file: its place, a hash of its content, its size, and what is changed in reading it."""

    path: Path
    digest: str
    size: Size
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """A picture to be trained on.

    name:    its place in its folder without the ending.
    caption: as it is trained on, "" where there is none.
    digest:  a hash of the file's content.
    size:    of the picture as it is looked at.
    bucket:  the size that it is trained at.
    weight:  of its loss; 1 but for prior pictures.
    """

    name: str
    path: Path
    caption: str
    digest: str
    size: Size
    bucket: Size
    hint: Partner | None = None
    mask: Partner | None = None
    weight: float = 1.0

    @property
    def framing(self) -> Framing:
        """What of the picture is trained on."""
        return Framing(self.size, self.bucket)
