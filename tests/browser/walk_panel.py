"""Walks the panel of a training on ComfyUI's real page: failures, tabs, subgraphs, names, themes, a restart.

python tests/browser/walk_panel.py HOST OUT [--frontend STATIC] [--vue-nodes] [SCENE ...]

On the embedded base, in about three minutes on two cores.  Prints what was found and exits with 1 where it is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host"), str(PACK)]

import help_graphs  # noqa: E402
from chromium import requirements  # noqa: E402
from demo_files import place_training  # noqa: E402
from host_server import Server  # noqa: E402
from walk_options import parsed, walk_parser  # noqa: E402

LEAST_CONTRAST = 4.5


def training() -> dict:
    """Train SCEdit on Model for many short steps."""
    graph = {name: each for name, each in help_graphs.train_on_model().items() if name in ("1", "8", "10", "18")}
    graph["10"]["inputs"] |= {"folder": "few", "name": "panel", "steps": 4000, "resolution": 64, "preview_every": 5}
    return graph


def in_a_process() -> dict:
    """Train SCEdit Tuner for as many."""
    graph = {"10": help_graphs.train()["10"]}
    graph["10"]["inputs"] |= {"folder": "few", "name": "process", "steps": 4000, "resolution": 64}
    return graph


def checks(seen: dict) -> list[tuple[str, bool]]:
    """What must hold of what was seen, scene by scene."""
    found = []

    def must(scene: str, what: str, holds: Callable[[Any], bool]) -> None:
        if scene in seen:
            try:
                found.append((f"{scene}: {what}", bool(holds(seen[scene]))))
            except (KeyError, IndexError, TypeError):  # the scene broke off before
                found.append((f"{scene}: {what}", False))

    for name, scene in seen.items():
        if isinstance(scene, dict) and "error" in scene:
            found.append((f"{name}: {scene['error']}", False))
    must(
        "failures",
        "each failure is there",
        lambda s: [s[k]["state"] for k in ("folder", "name", "away")] == ["failed"] * 3,
    )
    must("failures", "with its sentence", lambda s: s["folder"]["text"].startswith("folder: expected"))
    must(
        "failures", "and none stays", lambda s: s["last"]["state"] == "finished" and "expected" not in s["last"]["text"]
    )
    must("failures", "files are named", lambda s: "models/scedit/failing.safetensors" in s["last"]["files"])
    must("failures", "text is whole or scrolls", lambda s: all(each["whole"] for each in s.values()))
    must("firstSecond", "stopped twice", lambda s: [each["state"] for each in s] == ["stopped"] * 2)
    must("firstSecond", "within ten seconds", lambda s: max(each["seconds"] for each in s) < 10)
    must("twoTabs", "both show it", lambda s: [each["state"] for each in s["running"]] == ["running"] * 2)
    must("twoTabs", "stopped in both", lambda s: [each["state"] for each in s["stopped"]] == ["stopped"] * 2)
    must("twoTabs", "nothing where no node trains", lambda s: s["other"] == [])
    must("linkedName", "shown", lambda s: [each["state"] for each in s["live"]] == ["finished"])
    must("linkedName", "shown later too", lambda s: [each["state"] for each in s["later"]] == ["finished"])
    must("queuedNames", "the first", lambda s: s["first"][0]["name"] == "night_a")
    must("queuedNames", "the second", lambda s: s["second"][0]["name"] == "night_b")
    must("queuedNames", "opened again", lambda s: (s["again"][0]["name"], s["again"][0]["stop"]) == ("night_b", True))
    must("queuedNames", "not in another workflow", lambda s: "night" not in str([each["name"] for each in s["other"]]))
    must("twoOfOneName", "each its own", lambda s: sorted(each["state"] for each in s) == ["failed", "finished"])
    must("subgraph", "shown inside", lambda s: [each["state"] for each in s["inside"]] == ["running"])
    must("subgraph", "stopped from inside", lambda s: s["stopped"][0]["state"] == s["later"][0]["state"] == "stopped")
    for theme in ("light", "dark"):
        must("looks", f"contrast, {theme}", lambda s, t=theme: min(s[t].values()) >= LEAST_CONTRAST)
    must("looks", "in Chinese", lambda s: s["chinese"]["word"] == "训练中" and s["stopped"]["word_of_stop"] == "停止")
    must("looks", "its verdict too", lambda s: "验证损失变化" in s["chinese"]["verdict"])
    must("processToo", "a failure before its process", lambda s: s["failed"]["text"].startswith("folder: expected"))
    must("processToo", "stopped while it starts", lambda s: s["stopped"]["state"] == "stopped" and s["seconds"] < 20)
    must("restart", "the old one is over", lambda s: s["lost"]["state"] == "stopped" and not s["lost"]["stop"])
    must("restart", "resumes", lambda s: s["resumed"]["state"] == "running" and s["resumed"]["points"] > 2)
    return found


def main() -> int:
    """Walk; gives the exit status."""
    parser = walk_parser(__doc__)
    parser.add_argument("--vue-nodes", action="store_true", help="nodes drawn by Vue, where the page can")
    parser.add_argument("scenes", nargs="*", help="names in walk_panel.mjs, all without any")
    given = parsed(parser)
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as folder:
        base = Path(folder)
        place_training(base)
        few = base / "input" / "few"
        few.mkdir()
        for file in sorted((PACK / "demo" / "style").iterdir())[:6]:  # three, with their captions
            shutil.copy(file, few)
        server = Server(given.host, PACK, base, [PACK / "tests" / "host" / "demo_nodes"], given.options)
        task = {"graph": training(), "process": in_a_process(), "pictures": str(given.out), "only": given.scenes}
        (base / "task.json").write_text(json.dumps(task | {"vueNodes": given.vue_nodes}))
        command = ["node", str(HERE / "walk_panel.mjs"), server.url, str(base / "task.json"), str(base / "result.json")]
        server.__enter__()
        try:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            with subprocess.Popen(command, env=os.environ | requirements(), **pipes) as walk:
                for line in walk.stdout:
                    if line.strip() != "restart":
                        print(line, end="", flush=True)
                        continue
                    server.__exit__()
                    server.__enter__()
                    walk.stdin.write("restarted\n")
                    walk.stdin.flush()
        finally:
            server.__exit__()
        seen = json.loads((base / "result.json").read_text())
    problems = [each for each in seen.pop("problems") if "scedit" in each.lower()]
    found = [*checks(seen), ("no message of ours on the console", not problems)]
    print(*problems, *(f"{'yes' if holds else 'NO '} {what}" for what, holds in found), sep="\n")
    return 0 if all(holds for _, holds in found) else 1


if __name__ == "__main__":
    sys.exit(main())
