"""A contact sheet of all conditions on two photographs of scikit-image, as docs/conditions.jpg.

    python make_condition_sheet.py [--out docs/conditions.jpg] [--folder models/scedit_annotators]

A condition whose detector is not installed in --folder is left out; the sentence that the pack says then is printed.
`python -m scedit_core annotators --download NAME` fetches one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scedit_core.conditions.completion import Margins, inpainting, outpainting
from scedit_core.conditions.trained import hint_maker
from scedit_core.errors import ConditionError

PHOTOGRAPHS = ("astronaut", "coffee")
_SIDE, _GAP, _HEADING = 256, 6, 26
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def main() -> None:
    """Make every condition of every photograph, put them on a sheet, write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/conditions.jpg"))
    parser.add_argument("--folder", type=Path, default=Path("models/scedit_annotators"), help="where detectors lie")
    options = parser.parse_args()
    photographs = [_square(getattr(data, name)()) for name in PHOTOGRAPHS]
    columns = [("photograph", [_picture(each) for each in photographs])]
    for title, make in _conditions(options.folder):
        try:
            condition = make()
        except ConditionError as error:
            print(f"left out: {error}")
            continue
        columns.append((title, [_picture(condition(each)) for each in photographs]))
    sheet = _sheet(columns)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.out, quality=82, optimize=True)
    print(f"{options.out}: {sheet.width} x {sheet.height} pixels")


def _conditions(folder: Path) -> list[tuple[str, Callable[[], Callable[[Tensor], Tensor]]]]:
    """Titles, and what gives the function that makes a condition of [1,H,W,3]."""

    def made(**condition) -> Callable[[], Callable[[Tensor], Tensor]]:
        return lambda: hint_maker(condition, roots=[folder])

    hole = torch.zeros(2 * _SIDE, 2 * _SIDE)
    hole[_SIDE // 2 : _SIDE, _SIDE // 2 : 3 * _SIDE // 2] = 1
    return [
        ("canny", made(type="canny")),
        ("colour palette", made(type="color_palette")),
        ("completion: inpaint", lambda: lambda image: inpainting(image, hole).hint),
        ("completion: outpaint", lambda: lambda image: outpainting(image, Margins(128, 128, 128, 128)).hint),
        ("soft edge", made(type="soft_edge")),
        ("depth", made(type="depth")),
        ("pose", made(type="pose")),
        ("segmentation", made(type="segmentation")),
    ]


def _square(photograph) -> Tensor:
    """The middle of a photograph, 512 x 512, as [1,512,512,3] in 0..1."""
    height, width = photograph.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    part = photograph[top : top + side, left : left + side]
    large = cv2.resize(
        part, (2 * _SIDE, 2 * _SIDE), interpolation=cv2.INTER_AREA if side > 2 * _SIDE else cv2.INTER_CUBIC
    )
    return torch.from_numpy(large)[None].float() / 255


def _picture(image: Tensor) -> Image.Image:
    """The first of [1,H,W,3] in 0..1, at most as large as a cell of the sheet."""
    picture = Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy())
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture


def _sheet(columns: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Columns beside each other under their titles."""
    step, rows = _SIDE + _GAP, len(PHOTOGRAPHS)
    sheet = Image.new("RGB", (len(columns) * step + _GAP, _HEADING + rows * step), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (title, column) in enumerate(columns):
        left = _GAP + number * step
        _heading(draw, left, title)
        for row, picture in enumerate(column):
            place = ((_SIDE - picture.width) // 2, (_SIDE - picture.height) // 2)
            sheet.paste(picture, (left + place[0], _HEADING + row * step + place[1]))
    return sheet


def _heading(draw: ImageDraw.ImageDraw, left: int, title: str) -> None:
    draw.text((left + _SIDE / 2, _HEADING / 2 + 1), title, fill=_INK, font=ImageFont.load_default(17), anchor="mm")


if __name__ == "__main__":
    main()
