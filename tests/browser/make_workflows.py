"""Writes workflows/*.json and their pictures, as the host's real page saves and shows the graphs of graphs.py.

python tests/browser/make_workflows.py HOST [STEM ...]      HOST: a ComfyUI checkout whose server runs here
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host")]

import chromium  # noqa: E402
import graphs  # noqa: E402
from demo_files import photograph  # noqa: E402
from host_server import Server  # noqa: E402

PICTURE_WIDTH = 800


def place_files(base: Path) -> None:
    """Empty files under the names that the graphs use, so that no choice is missing, and the photograph."""
    for stem in graphs.WORKFLOWS:
        for file in graphs.files(stem):
            path = base / "models" / file.folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.kind != "detector":
                path.touch()
    (base / "input").mkdir(exist_ok=True)
    (base / "input" / graphs.PHOTOGRAPH).write_bytes(photograph())


def as_jpeg(source: Path, target: Path, width: int, quality: int = 80) -> None:
    """A screenshot as JPEG, at most `width` pixels wide."""
    with Image.open(source) as picture:
        size = (width, round(picture.height * width / picture.width))
        small = picture.convert("RGB") if picture.width <= width else picture.convert("RGB").resize(size, 3)
        small.save(target, quality=quality, optimize=True)


def main(host: Path, stems: Iterable[str]) -> None:
    """Make them."""
    out = PACK / "workflows"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        place_files(base)
        tasks = [
            {
                "name": stem,
                "api": graphs.WORKFLOWS[stem].graph(),
                "note": graphs.note(stem),
                "picture": str(base / f"{stem}.png"),
                "crop": True,
            }
            for stem in stems
        ]
        with Server(host, PACK, base) as server:
            for result in chromium.visit(server.url, tasks, base):
                name = result["name"]
                print(name, result.get("failed") or result["missing"] or "complete", *result["problems"])
                (out / f"{name}.json").write_text(json.dumps(result["saved"], indent=1) + "\n", "utf-8")
                as_jpeg(base / f"{name}.png", out / f"{name}.jpg", PICTURE_WIDTH)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or graphs.WORKFLOWS)
