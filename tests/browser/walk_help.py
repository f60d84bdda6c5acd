"""Opens the help of every node on ComfyUI's real page, in English and in Chinese.

python tests/browser/walk_help.py HOST OUT [--frontend STATIC] [NODE ...]
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host"), str(PACK)]

import chromium  # noqa: E402
from host_server import Server  # noqa: E402
from walk_options import parsed, walk_parser  # noqa: E402

CHINESE = re.compile(r"[\u4e00-\u9fff]")


def main() -> int:
    """Walk; gives the exit status."""
    parser = walk_parser(__doc__)
    parser.add_argument("nodes", nargs="*", help="ids of nodes, all without any")
    given = parsed(parser)
    nodes = given.nodes or sorted(path.stem for path in (PACK / "web" / "docs").glob("*.md"))
    tasks = []
    for language in ("en", "zh"):
        for node in nodes:
            tasks.append(
                {"name": f"{node}_{language}", "help": node, "picture": str(given.out / f"{node}_{language}.png")}
            )
        tasks[-len(nodes)]["locale"] = language
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as folder:
        server = Server(given.host, PACK, Path(folder), options=given.options)
        with server:
            for result in chromium.visit(server.url, tasks, Path(folder), seconds=900):
                ours = [each for each in result["problems"] if "scedit" in each.lower()]
                text, pictures = result.get("text", ""), result.get("pictures", [])
                in_chinese = bool(CHINESE.search(text)) == result["name"].endswith("_zh")
                holds = "failed" not in result and in_chinese and len(text) > 300 and min(pictures, default=0) > 100
                wrong += not holds or bool(ours)
                print(
                    "yes" if holds and not ours else "NO ", result["name"], result.get("failed", ""), *ours, flush=True
                )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
