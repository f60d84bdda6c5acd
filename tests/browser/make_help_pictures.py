"""Writes web/docs/assets/*.jpg and the README's screenshots: the graphs of help_graphs.py on the host's real page.

python tests/browser/make_help_pictures.py HOST LANTERN [STEM ...]
    HOST: a ComfyUI checkout whose server runs here.  LANTERN: the style that `make demo` trains,
    demo_output/lantern.safetensors.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host"), str(PACK)]

import chromium  # noqa: E402
import help_graphs  # noqa: E402
from demo_files import place_files, place_training  # noqa: E402
from host_server import Server  # noqa: E402
from make_workflows import as_jpeg  # noqa: E402

from scedit_core import load_tuner, save_tuner  # noqa: E402
from scedit_core.converting import without_blocks  # noqa: E402

PICTURE_WIDTH = 1000
HELP_WIDTH = 564  # twice what the page's help shows
README = PACK / "docs"


def place_styles(base: Path, lantern: Path) -> None:
    """The style, and the shallow half of it as a file of its own."""
    tuners = base / "models" / "scedit"
    shutil.copy(lantern, tuners / help_graphs.LANTERN)
    style = load_tuner(lantern)
    save_tuner(without_blocks(style, style.blocks[: len(style.blocks) // 2]), tuners / help_graphs.SHALLOW)


def main(host: Path, lantern: Path, stems: Iterable[str]) -> None:
    """Make them."""
    assets = PACK / "web" / "docs" / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as folder:
        base = Path(folder)
        place_files(base)
        place_styles(base, lantern)
        place_training(base)
        tasks = []
        for stem in stems:
            picture = help_graphs.PICTURES[stem]
            task = {"name": stem, "api": picture.graph(), "folded": picture.folded, "run": picture.runs}
            tasks.append(
                task
                | {"picture": str(base / f"{stem}.png"), "crop": True, "steps": picture.steps, "stack": picture.stack}
            )
        with Server(host, PACK, base, [PACK / "tests" / "host" / "demo_nodes"]) as server:
            for result in chromium.visit(server.url, tasks, base, seconds=900):
                name = result["name"]
                print(name, result.get("failed") or result.get("error") or "complete", *result["problems"])
                target = README / f"graph_{name}.jpg" if name == "style_and_control" else assets / f"{name}.jpg"
                as_jpeg(base / f"{name}.png", target, HELP_WIDTH if help_graphs.PICTURES[name].stack else PICTURE_WIDTH)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or help_graphs.PICTURES)
