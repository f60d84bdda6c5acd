"""Which part of a picture is trained on, and at which size: buckets of aspect ratios, and one frame for a picture, its
hint and its mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..conditions.fitting import Fitting, fit_hint
from ..errors import DataError

Size = tuple[int, int]  # width, height in pixels
MULTIPLE = 64  # every skip of every supported U-Net then has whole pixels


def bucket_sizes(resolution: int, buckets: bool = True, max_aspect: float = 2.0) -> list[Size]:
    """Sizes with about the area of a square of `resolution`, a multiple of 64; that square alone without `buckets`.

    Sides are multiples of 64, no area is larger than the square's, and the longer side is at most `max_aspect` times
    the shorter.  Source: NovelAI's aspect ratio bucketing, whose sizes SDXL was trained on.
    """
    square = (resolution, resolution)
    if not buckets:
        return [square]
    found = {square}
    for width in range(MULTIPLE, int(resolution * max_aspect**0.5) + 1, MULTIPLE):
        height = resolution**2 // width // MULTIPLE * MULTIPLE
        if height and max(width / height, height / width) <= max_aspect:
            found |= {(width, height), (height, width)}
    return sorted(found)


def own_bucket(size: Size, buckets: bool = True, max_aspect: float = 2.0) -> Size:
    """The largest size of whole multiples of 64 that a small picture fills without being enlarged.

    Raises ValueError for a picture with a side of less than 64 pixels.
    """
    sides = [side // MULTIPLE * MULTIPLE for side in size]
    if not all(sides):
        raise ValueError(f"expected sides of at least {MULTIPLE} px, found {size[0]}x{size[1]}")
    most = int(min(sides) * (max_aspect if buckets else 1)) // MULTIPLE * MULTIPLE
    return min(sides[0], most), min(sides[1], most)


def bucket_of(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket that cuts the least off a picture of `size`; of equal ones that with the most pixels."""

    def rank(bucket: Size) -> tuple[float, int]:
        return round(Framing(size, bucket).kept, 9), bucket[0] * bucket[1]

    return max(buckets, key=rank)


@dataclass(frozen=True)
class Crop:
    """A part of what would be seen otherwise: `side` of its sides, at `x` and `y` of the room that is left, all in
    0..1."""

    side: float
    x: float
    y: float


@dataclass(frozen=True)
class Framing:
    """How a picture of size `source` fills one of size `target`: scaled until it covers it, then cut at the centre.

    crop: of that a part, as large.
    """

    source: Size
    target: Size
    crop: Crop | None = None

    @property
    def scale(self) -> float:
        """Pixels of the target for one of the source; more than 1 where the picture is enlarged."""
        return max(self.target[0] / self.source[0], self.target[1] / self.source[1])

    @property
    def kept(self) -> float:
        """The share of the picture's area that is not cut off."""
        left, top, right, bottom = self.box(self.source)
        return (right - left) * (bottom - top) / (self.source[0] * self.source[1])

    def box(self, size: Size) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what is kept, in pixels of a picture of `size` that shows the same scene."""
        left, top, right, bottom = self._centre(size)
        if self.crop is None:
            return left, top, right, bottom
        width, height = (right - left) * self.crop.side, (bottom - top) * self.crop.side
        left, top = left + (right - left - width) * self.crop.x, top + (bottom - top - height) * self.crop.y
        return left, top, left + width, top + height

    def _centre(self, size: Size) -> tuple[float, float, float, float]:
        sides = [min(1.0, t / (s * self.scale)) for s, t in zip(self.source, self.target, strict=True)]
        (left, right), (top, bottom) = (
            ((1 - side) / 2 * whole, (1 + side) / 2 * whole) for side, whole in zip(sides, size, strict=True)
        )
        return left, top, right, bottom

    def apply(self, image: Image.Image, resample: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
        """A picture of any size that shows the whole scene, framed: of size `target`.

        Raises ValueError where its aspect ratio is not that of `source`.
        """
        if not self.fits(image.size):
            raise ValueError(f"expected the shape of {self.source}, found {image.size}")
        if image.size == self.target == self.source and self.crop is None:
            return image
        return image.resize(self.target, resample, box=self.box(image.size))

    def hint(self, image: Image.Image, fitting: Fitting) -> Tensor:
        """A hint, with its alpha where it has one, as the nodes fit it to a picture of size `target`: [3,H,W] in 0..1.

        Its centre is cut out by its own proportions, as in the nodes, which see no picture.  Where those are not the
        picture's, since an annotator has rounded the sides to multiples of 64, it is cut as the picture is.
        """
        (width, height), (w, h) = image.size, self.source
        own = abs(height - width * h / w) <= 0.5 + 0.5 * h / w  # but for sides that are whole
        pixels = torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1)[None]
        box = None if own and self.crop is None else self.box(image.size)
        return fit_hint(pixels, self.target[1], self.target[0], fitting, box=box)[0]

    def mask(self, image: Image.Image, name: object) -> Image.Image:
        """A mask that shows the whole scene, of 8-bit grey, as large as the latents.

        Raises DataError where nothing of it is left, in the words of the file `name`.
        """
        side = (self.target[0] // 8, self.target[1] // 8)
        mask = self.apply(image, Image.Resampling.BOX).convert("L").resize(side, Image.Resampling.BOX)
        if mask.getbbox() is None:
            raise DataError(
                f"{name}: expected white where the loss counts, found a mask without any; paint white there, or remove "
                "the mask"
            )
        return mask

    def fits(self, size: Size) -> bool:
        """Whether a hint or mask of `size` has the shape of the picture: 3 percent off are allowed, since annotators
        round sides to multiples of 8 or 64, and so is a pixel."""
        width, height = self.source
        expected = size[0] * height / width
        return abs(size[1] - expected) <= max(1.0, 0.03 * expected, height / width)

    @property
    def micro_conditions(self) -> tuple[int, int, int, int, int, int]:
        """What SDXL is told, in pixels: the picture's height and width, top and left of what was cut off after
        scaling, height and width of the target (Podell et al. 2023, arXiv 2307.01952, section 2.2)."""
        left, top, _, _ = self.box(self.source)
        scale = self.scale / (1.0 if self.crop is None else self.crop.side)
        cut = math.floor(top * scale), math.floor(left * scale)
        return self.source[1], self.source[0], *cut, self.target[1], self.target[0]
