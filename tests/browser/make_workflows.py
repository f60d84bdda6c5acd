"""Writes workflows/*.json and their pictures, as the host's real page saves and shows the graphs of graphs.py.

python tests/browser/make_workflows.py HOST        HOST: a ComfyUI checkout whose server runs here
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

import skimage.data
from PIL import Image

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host")]

import chromium  # noqa: E402
import graphs  # noqa: E402
from host_server import Server  # noqa: E402


def place_files(base: Path) -> None:
    """Empty files under the names that the graphs use, so that no choice is missing, and the photograph."""
    names = {"models/checkpoints": graphs.CHECKPOINTS.values()}
    names["models/scedit"] = (*graphs.STYLE.values(), graphs.CANNY, graphs.COLOR)
    for folder, files in names.items():
        for name in files:
            (base / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (base / folder / name).touch()
    (base / "input").mkdir(exist_ok=True)
    (base / "input" / graphs.PHOTOGRAPH).write_bytes(photograph())


def photograph() -> bytes:
    """A real photograph of 512x512 pixels, as PNG."""
    data = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(data, "PNG")
    return data.getvalue()


def main(host: Path) -> None:
    """Make all of them."""
    out = PACK / "workflows"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        place_files(base)
        tasks = [
            {"name": stem, "api": graph(), "note": graphs.note(stem), "picture": str(out / f"{stem}.jpg")}
            for stem, (graph, *_) in graphs.WORKFLOWS.items()
        ]
        with Server(host, PACK, base) as server:
            for result in chromium.visit(server.url, tasks, base):
                (out / f"{result['name']}.json").write_text(json.dumps(result["saved"], indent=1) + "\n")
                print(result["name"], result["missing"] or "complete", *result["problems"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
