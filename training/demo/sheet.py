"""The contact sheet: rows of labelled pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_CELL, _GAP, _TEXT, _TOP = 192, 10, 200, 62
_PAPER, _INK, _SOFT = (250, 249, 246), (30, 30, 36), (110, 110, 120)


def contact_sheet(path: Path, prompts: list[str], columns: list[tuple[str, str, Tensor]]) -> Path:
    """Write a sheet: a row for each prompt, a column for each (title, subtitle, pictures [N,3,H,W] in 0..1)."""
    width = _TEXT + len(columns) * (_CELL + _GAP) + _GAP
    height = _TOP + len(prompts) * (_CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(size=19), ImageFont.load_default(size=14)
    pen.text((_GAP + 4, 12), "prompt", _INK, big)
    for c, (title, subtitle, pictures) in enumerate(columns):
        x = _TEXT + c * (_CELL + _GAP)
        pen.text((x, 12), title, _INK, big)
        pen.text((x, 36), subtitle, _SOFT, small)
        for r, picture in enumerate(pictures):
            pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            image = Image.fromarray(np.ascontiguousarray(pixels)).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            sheet.paste(image, (x, _TOP + r * (_CELL + _GAP)))
    for r, prompt in enumerate(prompts):
        y = _TOP + r * (_CELL + _GAP) + _CELL // 2
        pen.multiline_text((_GAP + 4, y), _wrapped(prompt, 20), _INK, small, anchor="lm", spacing=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
