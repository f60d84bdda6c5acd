"""Other looks of a picture: a part of it, and its colours changed, the same each time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from PIL import Image, ImageEnhance

from .framing import Crop

_COLOURS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}
_HUE = "hue"


@dataclass(frozen=True)
class Look:
    """crop: the part that is seen, None for the whole.  colours: what each of brightness, contrast and saturation is
    multiplied by, and how far the hue is turned, as a share of the circle, where they change."""

    crop: Crop | None = None
    colours: tuple[tuple[str, float], ...] = field(default=())

    @property
    def place(self) -> list[float]:
        """The crop, as JSON has it."""
        return [] if self.crop is None else [self.crop.side, self.crop.x, self.crop.y]

    def recoloured(self, picture: Image.Image) -> Image.Image:
        """An RGB picture in other colours."""
        for name, factor in self.colours:
            picture = _turned(picture, factor) if name == _HUE else _COLOURS[name](picture).enhance(factor)
        return picture


def look_of(
    digest: str, number: int, crop: float, brightness: float, contrast: float, saturation: float, hue: float = 0.0
) -> Look | None:
    """The look of a number of the picture with this digest; None for the first, the picture as it is.

    crop: the least share of a side that is seen.  brightness, contrast, saturation: the most that each changes, as a
    share of what it is.  hue: the most that it is turned either way, as a share of the circle.
    """
    if number == 0:
        return None
    chance = random.Random(f"look {number}/{digest}")
    side, x, y, *drawn, turn = (chance.random() for _ in range(7))
    changes = zip(_COLOURS, (brightness, contrast, saturation), drawn, strict=True)
    colours = tuple((name, round(1 + most * (2 * value - 1), 4)) for name, most, value in changes if most)
    if hue:
        colours += ((_HUE, round(hue * (2 * turn - 1), 4)),)
    place = Crop(round(1 - (1 - crop) * side, 4), round(x, 4), round(y, 4)) if crop < 1 else None
    return Look(place, colours)


def _turned(picture: Image.Image, share: float) -> Image.Image:
    """With every hue turned by that share of the circle."""
    hue, saturation, value = picture.convert("HSV").split()
    steps = round(256 * share)
    turned = hue.point([(each + steps) % 256 for each in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
