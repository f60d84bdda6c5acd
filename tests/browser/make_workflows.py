"""Writes workflows/*.json, as the host's real page saves the graphs of graphs.py.  Pictures: make_thumbnails.py.

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


def with_downloads(saved: dict, stem: str) -> dict:
    """With the addresses of its files on the nodes that load them, for which the page then offers a download."""
    for node in saved["nodes"]:
        for file in graphs.files(stem):
            if file.url and file.name in (node.get("widgets_values") or ()):
                model = {"name": file.name, "url": file.url, "directory": file.folder}
                node["properties"].setdefault("models", []).append(model)
    return saved


def opened_readable(saved: dict, scale: float = 0.85) -> dict:
    """Opened at a zoom at which labels can be read, with the note at the top left."""
    saved.setdefault("extra", {})["ds"] = {"scale": scale, "offset": [80 / scale - 40, 150 / scale - 60]}
    return saved


def main(host: Path, stems: Iterable[str]) -> None:
    """Make them."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        place_files(base)
        tasks = [
            {
                "name": stem,
                "api": graphs.WORKFLOWS[stem].graph(),
                "note": graphs.note(stem),
            }
            for stem in stems
        ]
        with Server(host, PACK, base) as server:
            for result in chromium.visit(server.url, tasks, base):
                name = result["name"]
                print(name, result.get("failed") or result["missing"] or "complete", *result["problems"])
                saved = opened_readable(with_downloads(result["saved"], name))
                graphs.template(name).write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or graphs.WORKFLOWS)
