"""Folders of broken and odd files, of every kind that people's folders have, for tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """A picture of noise, so that it is not compressed to nothing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def huge_png(width: int = 20000, height: int = 20000) -> bytes:
    """A real grey PNG of 400 megapixels, in half a megabyte."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])  # one bit for each pixel
    packer = zlib.compressobj(1)
    row = bytes(1 + width // 8)
    rows = b"".join(packer.compress(row * 1000) for _ in range(height // 1000)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animated_gif(seed: int) -> bytes:
    """Three frames."""
    return encoded(picture(seed), "GIF", save_all=True, append_images=[picture(seed + 1), picture(seed + 2)])


def damaged_png(seed: int) -> bytes:
    """A PNG whose data has a wrong checksum in the middle."""
    data = bytearray(encoded(picture(seed), "PNG"))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    return bytes(data)


def float_tiff(seed: int) -> bytes:
    """A TIFF of floating-point values."""
    return encoded(Image.fromarray(np.random.default_rng(seed).random((64, 64), dtype=np.float32)), "TIFF")


# Broken files: ending and content by number.
BROKEN: dict[str, Callable[[int], tuple[str, bytes]]] = {
    "truncated jpeg": lambda i: (".jpg", encoded(picture(i), "JPEG")[: 700 + 10 * i]),
    "truncated png": lambda i: (".png", encoded(picture(i), "PNG")[: 300 + 50 * i]),
    "truncated webp": lambda i: (".webp", encoded(picture(i), "WEBP", lossless=True)[: 500 + 50 * i]),
    "damaged png": lambda i: (".png", damaged_png(i)),
    "zero bytes": lambda i: ((".png", ".jpg", ".gif", ".webp")[i % 4], b""),
    "text called png": lambda i: (".png", b"<html>404 not found</html>" * (i + 1)),
    "head without body": lambda i: (".jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(i)),
    "animated gif": lambda i: (".gif", animated_gif(i)),
    "floating point": lambda i: (".tiff", float_tiff(i)),
}

_GREY16 = np.linspace(0, 65535, 96 * 96, dtype=np.uint16).reshape(96, 96)


def turned(i: int) -> bytes:
    """A JPEG that its EXIF turns."""
    exif = Image.Exif()
    exif[0x0112] = (3, 6, 8)[i % 3]
    return encoded(picture(i, (96, 64)), "JPEG", exif=exif)


# Odd files that can be read, and the remark on each.
ODD: dict[str, tuple[Callable[[int], tuple[str, bytes]], str]] = {
    "cmyk": (lambda i: (".jpg", encoded(picture(i).convert("CMYK"), "JPEG")), "converted from CMYK"),
    "16 bit": (lambda i: (".png", encoded(Image.fromarray(_GREY16), "PNG")), "reduced from 16 bits"),
    "exif": (lambda i: (".jpg", turned(i)), "turned as its EXIF says"),
    "transparent": (lambda i: (".png", encoded(picture(i).convert("RGBA"), "PNG")), "put on white"),
}

CAPTIONS_IN_OTHER_ENCODINGS = ["café".encode("latin-1"), "猫".encode("shift_jis"), "кот".encode("cp1251")]
CAPTIONS_IN_OTHER_ENCODINGS.append("a cat".encode("utf-16-le"))


def write_bad_set(folder: Path, hints: Path, good: int = 4) -> tuple[set[Path], set[Path]]:
    """Write 200 files that cannot be used among `good` ones and some odd ones, and hints for all.

    Returns the paths that must be named as problems, and those that must be named in remarks.
    """
    folder.mkdir(parents=True)
    hints.mkdir(parents=True)
    bad: set[Path] = set()
    remarked: set[Path] = set()

    def write(name: str, ending: str, data: bytes, caption: bytes = b"noise", hint: bool = True) -> Path:
        path = folder / f"{name}{ending}"
        path.write_bytes(data)
        path.with_suffix(".txt").write_bytes(caption)
        if hint:
            (hints / f"{name}.png").write_bytes(_HINT)
        return path

    for i in range(good):
        write(f"good {i}", ".png", encoded(picture(i), "PNG"))
    for name, make in BROKEN.items():
        bad |= {write(f"{name} {i}", *make(i)) for i in range(16)}
    bad.add(write("huge", ".png", huge_png()))
    for i in range(20):
        path = write(f"caption {i}", ".png", encoded(picture(i), "PNG"), CAPTIONS_IN_OTHER_ENCODINGS[i % 4])
        bad.add(path.with_suffix(".txt"))
    for i in range(10):
        bad.add(write(f"no hint {i}", ".png", encoded(picture(i), "PNG"), hint=False))
        stray = hints / f"no picture {i}.png"
        stray.write_bytes(_HINT)
        bad.add(stray)
    for i in range(10):
        write(f"twice {i}", ".jpg", encoded(picture(i), "JPEG"))
        bad.add(write(f"twice {i}", ".png", encoded(picture(i), "PNG")))
    for i in range(5):
        write(f"square hint {i}", ".png", encoded(picture(i, (96, 64)), "PNG"))
        bad.add(hints / f"square hint {i}.png")
    for name, (make, _) in ODD.items():
        remarked |= {write(f"{name} {i}", *make(i), hint=name != "exif") for i in range(3)}
    for i in range(3):  # hints of turned pictures have the shape that one looks at
        shape = (96, 64) if i % 3 == 0 else (64, 96)
        (hints / f"exif {i}.png").write_bytes(encoded(picture(i, shape), "PNG"))
    return bad, remarked


_HINT = encoded(picture(99), "PNG")
