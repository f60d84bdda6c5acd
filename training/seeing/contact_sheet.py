"""The contact sheet: pictures as they are trained on, beside their hints and masks, with their captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scedit_core.conditions.fitting import Fitting, fit_hint
from scedit_core.pictures.reading import to_picture

from .sheets import save_picture, scaled_size

_HEIGHT, _GAP, _INNER, _TEXT_LINES, _LINE = 192, 18, 3, 3, 17
_WIDTH = 1500  # of the sheet, about
_PAPER, _INK, _SOFT = (250, 249, 246), (30, 30, 36), (110, 110, 120)


@dataclass
class Shown:
    """One example: its picture, its hint [3,H,W] in 0..1 and its mask, all of one size; a line of facts, the caption.

    fitting: how the hint comes to the size of the sheet.
    """

    picture: Image.Image
    hint: Tensor | None
    mask: Image.Image | None
    facts: str
    caption: str
    fitting: Fitting | None = None


def draw_contact_sheet(path: Path, shown: Sequence[Shown]) -> Path:
    """Write the sheet as a JPEG.  Raises OSError where it cannot be written."""
    font, small = ImageFont.load_default(size=14), ImageFont.load_default(size=12)
    cells = [_cell(each, font, small) for each in shown]
    rows: list[list[Image.Image]] = [[]]
    for cell in cells:
        if rows[-1] and sum(c.width + _GAP for c in rows[-1]) + cell.width > _WIDTH:
            rows.append([])
        rows[-1].append(cell)
    width = max((sum(c.width + _GAP for c in row) for row in rows), default=0) + _GAP
    height = sum(max((c.height for c in row), default=0) + _GAP for row in rows) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    y = _GAP
    for row in rows:
        x = _GAP
        for cell in row:
            sheet.paste(cell, (x, y))
            x += cell.width + _GAP
        y += max((c.height for c in row), default=0) + _GAP
    return save_picture(sheet, path)


def _cell(shown: Shown, font: ImageFont.FreeTypeFont, small: ImageFont.FreeTypeFont) -> Image.Image:
    side = scaled_size(shown.picture.size, _HEIGHT)
    pictures = [
        each.convert("RGB").resize(side, Image.Resampling.LANCZOS) for each in (shown.picture, shown.mask) if each
    ]
    if shown.hint is not None:
        pictures.insert(1, to_picture(fit_hint(shown.hint[None], side[1], side[0], shown.fitting)[0]))
    width = max(_HEIGHT, len(pictures) * (side[0] + _INNER) - _INNER)
    cell = Image.new("RGB", (width, _HEIGHT + _LINE * (_TEXT_LINES + 1) + 4), _PAPER)
    for i, picture in enumerate(pictures):
        cell.paste(picture, (i * (side[0] + _INNER), _HEIGHT - side[1]))
    pen = ImageDraw.Draw(cell)
    pen.text((0, _HEIGHT + 4), shown.facts, _SOFT, small)
    text = shown.caption or "(no caption)"
    lines = textwrap.wrap(text, max(10, int(width / 7.4)), max_lines=_TEXT_LINES, placeholder=" ...") or [""]
    for i, line in enumerate(lines):
        pen.text((0, _HEIGHT + 4 + _LINE * (i + 1)), line, _INK if shown.caption else _SOFT, font)
    return cell
