"""What the pack adds to the host's start: time to import it and list its nodes, and the modules that it brings along.

    python benchmarks/host_start.py HOST [--rounds 5] [--out FILE.json]

HOST is a ComfyUI checkout.  Each round is a process of its own that imports the host with its built-in nodes, as it is
when it comes to packs, and then this pack.  A first round, which compiles files, is not counted.  Prints a table and
writes JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from frame import finish, parser

PACK = Path(__file__).resolve().parents[1]
TARGET_SECONDS = 0.3

_ROUND = """
import asyncio, importlib.util, json, sys, time
sys.path.insert(0, {host!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True
import utils.extra_config  # first, as in main.py: other packages have a module of that name
import nodes, server
asyncio.run(nodes.init_builtin_extra_nodes())
before = set(sys.modules)
begun, busy = time.perf_counter(), time.process_time()
spec = importlib.util.spec_from_file_location("scedit_pack", {pack!r} + "/__init__.py", submodule_search_locations=[{pack!r}])
module = importlib.util.module_from_spec(spec)
sys.modules["scedit_pack"] = module
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
found = asyncio.run(extension.get_node_list())
seconds, busy = time.perf_counter() - begun, time.process_time() - busy
new = sorted({{name.split(".")[0] for name in set(sys.modules) - before}} - {{"scedit_pack"}})
print(json.dumps({{"seconds": seconds, "cpu": busy, "nodes": len(found), "modules": new}}))
"""  # noqa: E501


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("host", type=Path, help="a ComfyUI checkout")
    made.add_argument("--rounds", type=int, default=5)
    options = made.parse_args()
    rounds = [_round(options.host.resolve()) for _ in range(options.rounds + 1)][1:]
    seconds = [each["seconds"] for each in rounds]
    version = (options.host / "comfyui_version.py").read_text().split('"')[1]
    report = {
        "host": version,
        "seconds": statistics.median(seconds),
        "lowest": min(seconds),
        "highest": max(seconds),
        "cpu_seconds": statistics.median(each["cpu"] for each in rounds),
        "target": TARGET_SECONDS,
        "nodes": rounds[0]["nodes"],
        "modules": rounds[0]["modules"],
    }
    print(f"ComfyUI {version}: {report['nodes']} nodes in {report['seconds']:.3f} s, median of {len(seconds)} ", end="")
    print(f"({min(seconds):.3f} to {max(seconds):.3f}), ", end="")
    print(f"of which {report['cpu_seconds']:.3f} s the processor was at work; target {TARGET_SECONDS} s")
    print(f"imported beside the pack: {', '.join(report['modules']) or 'nothing'}")
    finish(report, options)


def _round(host: Path) -> dict:
    script = _ROUND.format(host=str(host), pack=str(PACK))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # hosts keep compiled files
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=host, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{host}: expected a host that imports the pack, found an error\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
