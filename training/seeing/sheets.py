"""Sheets of labelled pictures, written whole or not at all, since others look at them while a run goes on."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from scedit_core.saving import replace_file

_GAP, _LABEL, _MARGIN = 8, 112, 12
_PAPER, _INK = (250, 249, 246), (30, 30, 36)


def draw_sheet(
    path: Path, titles: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image | None]]], cell: int
) -> Path:
    """Write a JPEG: `titles` over the columns, then rows of (label, a picture or None for each column).

    cell: the longest side of a picture in pixels; pictures are scaled to it.  Raises OSError where it cannot be
    written.
    """
    font = ImageFont.load_default(size=14)
    letters = max(8, int(cell / 7.5))
    wrapped = [_wrapped(title, letters, lines=3) for title in titles]
    head = _MARGIN + 20 * max((text.count("\n") + 1 for text in wrapped), default=1)

    def scaled(picture: Image.Image) -> Image.Image:
        return picture.convert("RGB").resize(scaled_size(picture.size, cell), Image.Resampling.LANCZOS)

    drawn = [(label, [p and scaled(p) for p in pictures]) for label, pictures in rows]
    widths = [max((p[c].width for _, p in drawn if p[c] is not None), default=cell) for c in range(len(titles))]
    heights = [max((p.height for p in pictures if p is not None), default=cell) for _, pictures in drawn]
    sheet = Image.new(
        "RGB",
        (_LABEL + sum(widths) + _GAP * len(widths) + _MARGIN, head + sum(heights) + _GAP * len(heights) + _MARGIN),
        _PAPER,
    )
    pen = ImageDraw.Draw(sheet)
    x = _LABEL
    for text, width in zip(wrapped, widths, strict=True):
        pen.multiline_text((x, _MARGIN - 2), text, _INK, font, spacing=4)
        x += width + _GAP
    y = head
    for (label, pictures), height in zip(drawn, heights, strict=True):
        pen.multiline_text((_MARGIN, y + height // 2), _wrapped(label, 13, lines=6), _INK, font, anchor="lm", spacing=4)
        x = _LABEL
        for picture, width in zip(pictures, widths, strict=True):
            if picture is not None:
                sheet.paste(picture, (x, y))
            x += width + _GAP
        y += height + _GAP
    return save_picture(sheet, path)


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a JPEG, whole or not at all.  Raises OSError where it cannot be written."""
    return replace_file(path, lambda part: picture.save(part, "JPEG", quality=92))


def scaled_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height of a picture of `size` whose longest side is brought to `longest`."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _wrapped(text: str, letters: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder=" ...") or [""])
