"""What a training set is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scedit_core.pictures.framing import Framing, Size
from scedit_core.pictures.wording import Captions


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

    name:    its place in its folder without the ending; of several folders, with their name.
    caption: as it is measured and drawn, "" where there is none.
    digest:  a hash of the file's content.
    size:    of the picture as it is looked at.
    bucket:  the size that it is trained at.
    weight:  of its loss; 1 but for prior pictures and folders that have another.
    repeats: how often it stands in a round.
    wording: its captions, where there are several or chance changes them: what a step shows.
    origin:  a short name of its folder.
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
    repeats: int = 1
    wording: Captions | None = None
    origin: str = ""

    @property
    def framing(self) -> Framing:
        """What of the picture is trained on."""
        return Framing(self.size, self.bucket)

    @property
    def words(self) -> str | list:
        """What is known of its captions, as JSON has it."""
        return self.caption if self.wording is None else self.wording.told

    def texts(self) -> set[str]:
        """Every caption that may be trained on, and the one that is measured."""
        return {self.caption} if self.wording is None else set(self.wording.all())

    def worded(self, chance: float) -> Example:
        """With the caption that a number from 0 to 1 draws."""
        return self if self.wording is None else replace(self, caption=self.wording.drawn(chance))
