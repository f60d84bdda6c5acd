"""Reading pictures of every kind that people have, as 8-bit RGB, the way up that they are looked at."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError, in_short
from .framing import Size

MASK_PAPER = "black"  # behind a transparent mask: what is not painted does not count
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".tga")
SUFFIXES += (".ppm", ".pgm")
# Endings of pictures that are not read; what has one was meant to be trained on.
FOREIGN = (".heic", ".heif", ".jxl", ".psd", ".xcf", ".kra", ".svg", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef")
FOREIGN += (".arw", ".orf", ".rw2", ".raf", ".raw", ".eps", ".pdf", ".ico", ".jxr", ".dds", ".mp4", ".mov")
TRANSPARENT = "put on white, since it is transparent"
MEGAPIXELS = 178  # Pillow opens no larger picture: it takes half a gigabyte
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")

# Of doubtful EXIF, odd palettes and large pictures; what cannot be read raises.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class PictureFacts:
    """size: after it was turned as its EXIF says.  remarks: what is changed in reading it, such as "CMYK"."""

    size: Size
    remarks: tuple[str, ...] = ()


def measure(source: Path | BinaryIO, name: str | Path) -> PictureFacts:
    """What the head of a picture says, without decoding it.

    name: begins the sentence of an error.  Raises DataError for what is no picture, one of several frames, one of more
    than 178 megapixels, and one of floating-point values.
    """
    with _opened(source, name) as image:
        return PictureFacts(_turned_size(image), tuple(_remarks(image)))


def read_picture(source: Path | BinaryIO, name: str | Path, paper: str | None = "white") -> Image.Image:
    """A picture as 8-bit RGB, turned as its EXIF says; transparent parts show the colour `paper`.

    Where `paper` is None, a picture that has transparent parts is RGBA.

    name: begins the sentence of an error.  Raises DataError as `measure` does, and for a picture that is cut short.
    """
    with _opened(source, name) as image:
        orientation = _orientation(image)
        image.load()
        picture = _rgb(image, paper)
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as float [3,H,W] in 0..1."""
    return torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).contiguous().float() / 255


def to_picture(tensor: Tensor) -> Image.Image:
    """[3,H,W] in 0..1, of any dtype on any device, as an RGB picture."""
    return Image.fromarray(
        (tensor.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy()
    )


@contextmanager
def _opened(source: Path | BinaryIO, name: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(source) as image:
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a phone's JPEG with a preview
                raise DataError(
                    f"{name}: expected one picture, found an animation of {image.n_frames} frames; save one of them"
                )
            if image.mode == "F":
                raise DataError(
                    f"{name}: expected whole numbers, found a floating-point picture; save it with 8 or 16 bits"
                )
            yield image
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name}: expected at most {MEGAPIXELS} megapixels, found a larger picture; scale it down"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: expected a picture, found other content or none; remove or replace it") from error
    # SyntaxError: what Pillow's PNG reader raises for a broken chunk
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{name}: expected a whole picture, found a broken one ({in_short(error, 100)}); replace it"
        ) from error


def _turned_size(image: Image.Image) -> Size:
    width, height = image.size
    return (height, width) if _orientation(image) in _TURNED else (width, height)


def _orientation(image: Image.Image) -> int:
    """What EXIF says of it; 1 is upright.  A PNG is not decoded to look for EXIF behind its pixels, as Pillow would."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _remarks(image: Image.Image) -> Iterator[str]:
    if _orientation(image) in _TURNS:
        yield "turned as its EXIF says"
    if image.mode in _DEEP:
        yield "reduced from 16 bits"
    elif image.mode in ("CMYK", "YCCK", "LAB"):
        yield f"converted from {image.mode}"
    if image.has_transparency_data:
        yield TRANSPARENT


def _rgb(image: Image.Image, paper: str | None) -> Image.Image:
    if image.mode in _DEEP:
        values = np.asarray(image).astype(np.int64)
        if values.size and values.max() > 255:
            values = (values * 255 + 32767) // 65535
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if paper is None:
            return image
        return Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert("RGB")
    return image.convert("RGB")
