"""The contact sheet: a block of rows for each style, its training pictures in front."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, GAP, TEXT, TOP, BETWEEN = 160, 8, 178, 62, 26
PAPER, _INK, _SOFT = (250, 249, 246), (30, 30, 36), (110, 110, 120)


@dataclass(frozen=True)
class Block:
    """One style: what it is, some of its training pictures, and a row for each prompt.

    examples: pictures [K,3,H,W]; columns: pictures [N,3,H,W] for N prompts, in the order of the sheet's titles; 0..1.
    """

    title: str
    subtitle: str
    examples: Tensor
    prompts: list[str]
    columns: list[Tensor]


def contact_sheet(path: Path, titles: list[tuple[str, str]], blocks: list[Block]) -> Path:
    """Write the sheet: training pictures, prompt, then a column for each (title, subtitle) of `titles`."""
    step, left = CELL + GAP, 2 * GAP + CELL
    width = left + TEXT + len(titles) * step
    height = TOP + sum(len(b.prompts) * step for b in blocks) + (len(blocks) - 1) * BETWEEN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(size=18), ImageFont.load_default(size=13)
    heads = [(GAP, ("trained on", "2 of 30 pictures")), (left, ("prompt", ""))]
    heads += [(left + TEXT + c * step, title) for c, title in enumerate(titles)]
    for x, (title, subtitle) in heads:
        pen.text((x, 10), title, _INK, big)
        pen.text((x, 34), subtitle, _SOFT, small)
    y = TOP
    for block in blocks:
        for r, picture in enumerate(block.examples[: len(block.prompts)]):
            sheet.paste(_thumbnail(picture), (GAP, y + r * step))
        below = y + len(block.examples) * step + 8
        pen.text((GAP, below), block.title, _INK, big)
        pen.multiline_text((GAP, below + 26), _wrapped(block.subtitle, 22), _SOFT, small, spacing=4)
        for r, prompt in enumerate(block.prompts):
            middle = y + r * step + CELL // 2
            pen.multiline_text((left, middle), _wrapped(prompt, 20), _INK, small, anchor="lm", spacing=5)
            for c, pictures in enumerate(block.columns):
                sheet.paste(_thumbnail(pictures[r]), (left + TEXT + c * step, y + r * step))
        y += len(block.prompts) * step + BETWEEN
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _thumbnail(picture: Tensor) -> Image.Image:
    pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((CELL, CELL), Image.Resampling.LANCZOS)


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
