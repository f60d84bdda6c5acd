"""Drops every template on ComfyUI's real page and presses Run, until there is a picture.

python tests/browser/walk_templates.py HOST OUT [--frontend STATIC] [STEM ...]

The files have SD 1.5's true shape and random weights; those of SDXL and SD 2.1 are replaced by them; sizes and steps
are small.  So the pictures show noise; what counts is that the page opens and runs what it is given, trainings too.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host"), str(PACK / "tests" / "unit"), str(PACK)]

import chromium  # noqa: E402
import graphs  # noqa: E402
import make_workflows  # noqa: E402
from host_server import Server  # noqa: E402
from walk_options import parsed, walk_parser  # noqa: E402


def place_files(models: Path) -> None:
    """Random ones of SD 1.5's true shape, and small random detectors."""
    import tiny_detectors
    import torch
    from template_files import write_random_files

    import scedit_core.converting
    from scedit_core.conditions import hed

    write_random_files(SimpleNamespace(core=scedit_core), models)
    annotators = models / "scedit_annotators"
    for kind, each in (("dpt", graphs.MIDAS), ("rtdetr", graphs.PEOPLE), ("vitpose", graphs.JOINTS)):
        tiny_detectors.save_detector(kind, annotators / each.name)
    (annotators / "hed").mkdir()
    torch.save(hed.HED().state_dict(), annotators / "hed" / "ControlNetHED.pth")


def place_pictures(base: Path) -> None:
    """Three of the demo's, with their captions."""
    few = base / "input" / "few"
    few.mkdir()
    for file in sorted((PACK / "demo" / "style").iterdir())[:6]:
        shutil.copy(file, few)


def small(stem: str, object_info: dict) -> dict[str, dict]:
    """The widgets that make a template quick, and take the files that are there, by node id."""
    from saved_workflow import made_small, saved_graph
    from template_files import on_sd15

    saved = saved_graph(stem, object_info)
    wanted = made_small(saved if graphs.WORKFLOWS[stem].family == "sd15" else on_sd15(saved))
    return {
        name: {key: value for key, value in each["inputs"].items() if value != saved[name]["inputs"].get(key)}
        for name, each in wanted.items()
    }


def main() -> int:
    """Walk; gives the exit status."""
    parser = walk_parser(__doc__)
    parser.add_argument("stems", nargs="*", help="names in graphs.py, all without any")
    given = parsed(parser)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as folder:
        base = Path(folder)
        make_workflows.place_files(base)
        place_files(base / "models")
        place_pictures(base)
        with Server(given.host, PACK, base, options=given.options) as server:
            info = server.get("/object_info")
            for stem in given.stems or graphs.WORKFLOWS:
                workflow = json.loads(graphs.template(stem).read_text("utf-8"))
                task = {"name": stem, "workflow": workflow, "run": True, "set": small(stem, info)}
                task |= {"opened": str(given.out / f"{stem}_opened.png"), "picture": str(given.out / f"{stem}.png")}
                (result,) = chromium.visit(server.url, [task], base)
                ours = [each for each in result["problems"] if "scedit" in each.lower()]
                saved = [node for node in workflow["nodes"] if node["type"] == "SaveImage"]
                shown = {node for node, width, height, _ in result.get("shown", ()) if width and height}
                failed = result.get("failed") or result.get("error") or result["missing"]
                holds = not failed and not ours and {str(node["id"]) for node in saved} <= shown
                wrong += not holds
                print("yes" if holds else "NO ", graphs.WORKFLOWS[stem].name, failed or "", *ours, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
