"""What ComfyUI's real page says where something is missing or wrong.

python tests/browser/walk_bad_input.py HOST OUT [--frontend STATIC] [CASE ...]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host"), str(PACK)]

import chromium  # noqa: E402
import graphs  # noqa: E402
import help_graphs  # noqa: E402
import make_workflows  # noqa: E402
from demo_files import place_files  # noqa: E402
from graph_parts import demo_picture, node  # noqa: E402
from host_server import Server  # noqa: E402
from walk_options import parsed, walk_parser  # noqa: E402

DEMO_NODES = PACK / "tests" / "host" / "demo_nodes"
_HIDE = """import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "transformers" else found(name, *more)
"""
Found = list[tuple[str, bool]]  # what was looked at, and whether it holds
Seen = tuple[list[dict], str]  # what the page said to each task, and the server's log


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For as long as the context is open; root needs another way than others."""
    root = os.geteuid() == 0
    locked, free = (
        (["chattr", "-R", "+i"], ["chattr", "-R", "-i"]) if root else (["chmod", "-R", "a-w"], ["chmod", "-R", "u+w"])
    )
    subprocess.run([*locked, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run([*free, str(folder)], check=True)


class Walk:
    """The cases, each on a server of its own."""

    def __init__(self, host: Path, out: Path, options: list[str]) -> None:
        self.host, self.out, self.options = host, out, options

    def seen(self, base: Path, tasks: list[dict], more: tuple[Path, ...] = (), options: tuple[str, ...] = ()) -> Seen:
        """Do the tasks on the page of a server with that base directory, with screenshots."""
        for task in tasks:
            if "search" not in task:
                task["opened"] = str(self.out / f"{task['name']}_opened.png")
            task["picture"] = str(self.out / f"{task['name']}.png")
        with Server(self.host, PACK, base, more, [*self.options, *options]) as server:
            results = chromium.visit(server.url, tasks, base)
            return results, server.log.read_text()

    def without_files(self, base: Path) -> Found:
        """Templates on a ComfyUI with their checkpoints alone; a loader whose list has nothing but what to do."""
        from checkpoint import random_checkpoint

        first, *others = (base / "models" / "checkpoints" / name for name in graphs.CHECKPOINTS.values())
        random_checkpoint(first)  # a real one, since ComfyUI may load it before the tuner
        for other in others:
            other.hardlink_to(first)
        shutil.copytree(self.host / "input", base / "input")  # with the picture that every ComfyUI has
        loaded = {"1": node("SCEditLoadSCTuner", tuner_name="put a tuner into models/scedit and press R")}
        loaded |= {"2": node("SCEditTunerInfo", tuner=("1", 0)), "3": node("PreviewAny", source=("2", 0))}
        tasks = [
            template("sc_tuner_sd15"),
            template("csc_canny_sdxl"),
            {"name": "no_tuner", "api": loaded, "run": True},
        ]
        (style, control, none), _ = self.seen(base, tasks)
        advice = "put it there and press R"
        return [
            (f"Run says which file is missing: {style['error']}", graphs.PIXEL_ART["sd15"].name in style["error"]),
            ("and what to do", advice in style["error"]),
            (f"the control's too: {control['error']}", graphs.XL["canny"].name in control["error"]),
            ("and what to do", advice in control["error"]),
            (f"a loader without tuners: {none['error']}", none["error"].startswith("tuner_name: expected a tuner")),
            ("on the page too", none["error"].strip().split("\n")[0] in none["says"]),
        ]

    def without_detectors(self, base: Path) -> Found:
        """The condition nodes of templates 11 to 13, with their widgets, on a photograph."""
        place_files(base)
        tasks = []
        for stem in ("csc_soft_edge_sdxl", "csc_depth_sdxl", "csc_pose_sdxl"):
            graph = graphs.WORKFLOWS[stem].graph()
            graph = {name: graph[name] for name in ("20", "21", "22")}
            graph["20"]["inputs"]["image"] = help_graphs.PHOTOGRAPH
            del graph["21"]["inputs"]["csc_tuner"]
            tasks.append({"name": f"detector_{stem}", "api": graph, "run": True})
        results, _ = self.seen(base, tasks)
        found = []
        for result in results:
            sentence = (result.get("error") or "").strip()
            found.append((f"{result['name']}: {sentence}", "models/scedit_annotators/" in sentence))
            found.append(("with the command that fetches it", "--download" in sentence.split("\n")[1]))
            found.append(("on the page too", sentence.split("\n")[0] in result["says"]))
        return found

    def another_family(self, base: Path) -> Found:
        """A style and a control of SD 1.5 on a model that is none."""
        from types import SimpleNamespace

        from checkpoint import random_tuner

        import scedit_core

        place_files(base)
        for kind in ("sc", "csc"):
            random_tuner(SimpleNamespace(core=scedit_core), base / "models" / "scedit" / f"{kind}.safetensors", kind, 1)
        style = demo_picture("a red house")
        style["10"] = node("SCEditLoadSCTuner", tuner_name="sc.safetensors")
        applied = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "side": "both"}
        style["11"] = node("SCEditApplySCTuner", model=("1", 0), sc_tuner=("10", 0), **applied)
        style["5"]["inputs"]["model"] = ["11", 0]
        control = help_graphs.csc_tuner()
        control["30"]["inputs"]["tuner_name"] = "csc.safetensors"
        tasks = [{"name": f"family_{n}", "api": g, "run": True} for n, g in (("style", style), ("control", control))]
        results, _ = self.seen(base, tasks, (DEMO_NODES,))
        found = []
        for result in results:
            sentence = (result.get("error") or "").strip()
            found.append((f"{result['name']}: {sentence}", "expected a tuner for" in sentence))
            found.append(("what to do is there", "choose a tuner that was trained for this base model" in sentence))
            found.append(("on the page too", sentence.split("\n")[0] in result["says"]))
        return found

    def without_transformers(self, base: Path) -> Found:
        """The template of depth: its node is missing, the log says why, the others work."""
        pack = base / "custom_nodes" / "without_transformers"
        pack.mkdir(parents=True)
        (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
        (pack / "prestartup_script.py").write_text(_HIDE)  # before other packs; ComfyUI itself needs transformers
        make_workflows.place_files(base)
        (depth, canny), log = self.seen(
            base, [template("csc_depth_sdxl", run=False), template("csc_canny_sdxl", run=False)]
        )
        return [
            ("the node of depth is missing", depth["missing"] == ["SCEditDepth"]),
            ("that of edges is not", canny["missing"] == []),
            ("the log says why", "SCEditDepth not available" in log and "pip install transformers" in log),
        ]

    def chinese(self, base: Path) -> Found:
        """Searches on a Chinese page: the names that are listed, and at which place at the latest."""
        style = ("SCEdit 加载风格", "SCEdit 应用风格")
        wanted = dict.fromkeys(("scedit", "风格", "SC 微调器"), (style, 8))
        wanted |= {"控制": (("CSC 微调器",), 8), "训练": (("SCEdit",), 8), "边缘": (("SCEdit Canny 边缘",), 8)}
        return self.searched(base, "zh", wanted | {"重绘": (("SCEdit 补全",), 8)})

    def english(self, base: Path) -> Found:
        """The same on an English one, with the words of other tools; ComfyUI itself has more for some of them."""
        style = ("Load SC-Tuner", "Apply SC-Tuner")
        wanted = {"scedit": (style, 10), "style": (style, 8), "lora": (style, 64)}
        wanted |= {"controlnet": (("SCEdit Canny",), 64), "t2i": (("Load CSC-Tuner",), 8)}
        wanted |= {"openpose": (("SCEdit Pose",), 8), "mosaic": (("SCEdit Color Palette",), 8)}
        wanted |= dict.fromkeys(("hed", "scribble"), (("SCEdit Soft Edge",), 8))
        wanted |= dict.fromkeys(("inpaint", "outpaint"), (("SCEdit Completion",), 16))
        wanted |= dict.fromkeys(("train", "finetune"), (("Train SCEdit Tuner", "Train SCEdit on Model"), 8))
        return self.searched(base, "en", wanted)

    def searched(self, base: Path, locale: str, wanted: dict[str, tuple[tuple[str, ...], int]]) -> Found:
        """What a page in that language lists for words."""
        search = {words: names[-1] for words, (names, _) in wanted.items()}
        (result,), _ = self.seen(base, [{"name": f"search_{locale}", "search": search, "locale": locale}])
        found = []
        for words, (names, last) in wanted.items():
            listed = result["found"][words]
            places = [next((n for n, each in enumerate(listed, 1) if name in each), None) for name in names]
            ours = ", ".join(f"{name} {place}" for name, place in zip(names, places, strict=True))
            found.append((f"{words}: {ours} of {len(listed)}", all(place and place <= last for place in places)))
        return found

    def read_only_user(self, base: Path) -> Found:
        """A user directory that nobody can write to: the pack needs none."""
        place_files(base)
        settings = base / "fixed" / "default" / "comfy.settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text('{"Comfy.TutorialCompleted": true}')  # else ComfyUI's own page does not begin
        with read_only(base / "fixed"):
            task = {"name": "read_only", "api": help_graphs.csc_tuner(), "run": True}
            (result,), log = self.seen(base, [task], (DEMO_NODES,), ("--user-directory", str(base / "fixed")))
        return [
            ("a graph runs to its picture", result.get("error", "") is None and bool(result["shown"])),
            ("no message of ours", not ours(result)),
            ("nothing of ours in the log", not any("SCEdit" in line and "rror" in line for line in log.splitlines())),
        ]

    def twice(self, base: Path) -> Found:
        """By the Manager and by git."""
        place_files(base)
        (base / "custom_nodes").mkdir()
        (base / "custom_nodes" / "comfyui-scedit-by-git").symlink_to(PACK, target_is_directory=True)
        task = {"name": "twice", "api": help_graphs.csc_tuner(), "run": True}
        (result,), log = self.seen(base, [task], (DEMO_NODES,))
        return [
            ("a graph runs to its picture", result.get("error", "") is None and bool(result["shown"])),
            ("no message of ours", not ours(result)),
            ("the log says so", "is installed twice" in log and "remove one of them" in log),
        ]


def template(stem: str, run: bool = True) -> dict:
    """A template as it is."""
    return {"name": stem, "workflow": json.loads(graphs.template(stem).read_text("utf-8")), "run": run}


def ours(result: dict) -> list[str]:
    """What the page's console says of this pack."""
    return [each for each in result["problems"] if "scedit" in each.lower()]


CASES: tuple[str, ...] = (
    "without_files",
    "without_detectors",
    "another_family",
    "without_transformers",
    "chinese",
    "english",
    "read_only_user",
    "twice",
)


def main() -> int:
    """Walk; gives the exit status."""
    parser = walk_parser(__doc__)
    parser.add_argument("cases", nargs="*", help="all without any")
    given = parsed(parser)
    walk, wrong = Walk(given.host, given.out, given.options), 0
    for name in given.cases or CASES:
        case: Callable[[Path], Found] = getattr(walk, name)
        with tempfile.TemporaryDirectory(prefix="ComfyUI-") as folder:
            try:
                found = case(Path(folder))
            except (RuntimeError, KeyError) as error:
                found = [(f"{type(error).__name__}: {error}", False)]
            for what, holds in found:
                print("yes" if holds else "NO ", f"{name}: {what}", flush=True)
                wrong += not holds
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
