"""What a training set is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from scedit_core.pictures.framing import Framing, Size
from scedit_core.pictures.looks import Look, look_of
from scedit_core.pictures.wording import Captions

from ..config_data import LooksConfig


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
    sizes:   all sizes that it is trained at; `bucket` is the first of them.
    alpha:   whether the loss counts where the picture is opaque.
    flip:    whether a step may mirror it.
    looks:   what other looks it has.
    look:    other colours or a part of the picture; None for the picture as it is.
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
    sizes: tuple[Size, ...] = ()
    alpha: bool = False
    flip: bool = False
    looks: LooksConfig | None = None
    look: Look | None = None

    @property
    def framing(self) -> Framing:
        """What of the picture is trained on."""
        return Framing(self.size, self.bucket, self.look and self.look.crop)

    @property
    def masked(self) -> bool:
        """Whether the loss counts in a part of it alone."""
        return self.alpha or self.mask is not None

    @property
    def words(self) -> str | list:
        """What is known of its captions, as JSON has it."""
        return self.caption if self.wording is None else self.wording.told

    def texts(self) -> set[str]:
        """Every caption that may be trained on, and the one that is measured."""
        return {self.caption} if self.wording is None else set(self.wording.all())

    def forms(self) -> Iterator[Example]:
        """All that is encoded of it: at each size, the picture as it is and its other looks."""
        for size in self.sizes or (self.bucket,):
            at = self if size == self.bucket else replace(self, bucket=size)
            yield from (at.looking(number) for number in range(self.looks.count if self.looks else 1))

    def looking(self, number: int) -> Example:
        """With another of its looks; 0 is the picture as it is."""
        if self.looks is None or number == 0:
            return self
        told = self.looks
        changes = told.crop, told.brightness, told.contrast, told.saturation, told.hue
        return replace(self, look=look_of(self.digest, number, *changes))

    def worded(self, chance: float) -> Example:
        """With the caption that a number from 0 to 1 draws."""
        return self if self.wording is None else replace(self, caption=self.wording.drawn(chance))
