"""Writes docs/contact_sheet.jpg and, of drawings, docs/icon.png and docs/banner.png.

python tests/browser/make_readme_pictures.py SHEET
    SHEET: what `make demo` draws, demo_output/contact_sheet.png.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK)]

from chromium import requirements  # noqa: E402

from training.demo.run import ROWS  # noqa: E402
from training.demo.sheet import BETWEEN, CELL, GAP, PAPER, TOP  # noqa: E402

DOCS = PACK / "docs"
SHOWN = 3  # rows of each style
DRAWINGS = {"icon": (400, 400), "banner": (1050, 450)}  # the banner shows the third row


def shortened(sheet: Image.Image) -> Image.Image:
    """The first rows of both styles."""
    step = CELL + GAP
    tall = SHOWN * step
    first, second = TOP + tall, TOP + ROWS * step + BETWEEN
    whole = Image.new("RGB", (sheet.width, first + BETWEEN + tall), PAPER)
    whole.paste(sheet.crop((0, 0, sheet.width, first)), (0, 0))
    whole.paste(sheet.crop((0, second, sheet.width, second + tall)), (0, first + BETWEEN))
    return whole


def main(sheet: Path) -> None:
    """Make them."""
    with Image.open(sheet) as picture:
        shortened(picture.convert("RGB")).save(DOCS / "contact_sheet.jpg", quality=92, optimize=True)
    for name, (width, height) in DRAWINGS.items():
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--allow-file-access-from-files"]
        options += [f"--window-size={width},{height}", f"--screenshot={DOCS / name}.png"]
        subprocess.run([requirements()["CHROMIUM"], *options, (DOCS / f"{name}.svg").as_uri()], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
