"""What a user waits for beside sampling and training: the pack's start, the trainer's, a file, a hint.

    python -m benchmarks.waits [--only pack trainer file hints] [--host COMFYUI] [--base FILE [--tokenizer FOLDER]]
                               [--rounds 5] [--out FILE.json]

pack:     to import the pack into ComfyUI and list its nodes, in processes that have imported ComfyUI already.
trainer:  from its command to its first step, with everything cached, on four small pictures and --base, a checkpoint
          file or a diffusers folder; left out without one.
file:     to load a CSC-Tuner of SD 1.5 with kernel 3, beside reading every weight of it with the bare safetensors.
hints:    canny and colour palette of a picture of 512 x 512, a tensor as the nodes have it, on one thread, beside the
          bare calls of cv2 with the conversions that they need, in time of the processor.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from safetensors.torch import load_file

from benchmarks.frame import PACK, finish, host_version, in_turns, machine, parser, show
from scedit_core import CSCTuner, SkipLayout, load_tuner, save_tuner
from scedit_core.conditions.canny import canny
from scedit_core.conditions.color_palette import color_palette

_IMPORT = """
import asyncio, importlib.util, json, sys, time
sys.path.insert(0, "")
import comfy.cli_args
comfy.cli_args.args.cpu = True
import utils.extra_config  # first, as in main.py: other packages have a module of that name
import nodes, server
asyncio.run(nodes.init_builtin_extra_nodes())
pack, begun = sys.argv[1], time.perf_counter()
spec = importlib.util.spec_from_file_location("scedit_pack", pack + "/__init__.py", submodule_search_locations=[pack])
module = importlib.util.module_from_spec(spec)
sys.modules["scedit_pack"] = module
spec.loader.exec_module(module)
asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
print(json.dumps(time.perf_counter() - begun))
"""


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__, host=True)
    made.add_argument("--only", nargs="+", choices=WAITS, default=list(WAITS))
    made.add_argument("--base", type=Path, help="a checkpoint file or a diffusers folder, for the trainer's start")
    made.add_argument("--tokenizer", type=Path, help="folder of CLIP's tokenizer, where none is found")
    made.add_argument("--rounds", type=int, default=5)
    options = made.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = [row for name in options.only for row in WAITS[name](options)]
    heads = ["wait", "seconds", "bare", "ratio", "at most"]
    show(
        "waits", heads, [[row["wait"], *(f"{row[key]:.4g}" if key in row else "" for key in heads[1:])] for row in rows]
    )
    finish({"machine": machine(), "rounds": options.rounds, "rows": rows}, options)


def _pack(options: argparse.Namespace) -> Iterator[dict]:
    wait = f"the pack in ComfyUI {host_version(options.host)}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # hosts keep compiled files
    command = [sys.executable, "-c", _IMPORT, str(PACK)]
    run = {"cwd": options.host, "env": environment, "capture_output": True, "text": True, "check": True}
    told = [subprocess.run(command, **run).stdout.splitlines()[-1] for _ in range(options.rounds + 1)]
    yield {"wait": wait, "seconds": statistics.median(map(float, told[1:])), "at most": 0.3}


def _trainer(options: argparse.Namespace) -> Iterator[dict]:
    from training.demo.pictures import write_pictures

    if options.base is None:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "pictures", 4, seed=5, style="lantern")
        config = {
            "base": str(options.base.resolve()), "tuner": {"kind": "sc"}, "loop": {"steps": 1, "batch": 1, "warmup": 0},
            "data": {"folder": str(folder / "pictures"), "resolution": 64, "cache": str(folder / "cache")},
            "previews": {"every": 0}, "validation": {"every": 0},
        }  # fmt: skip
        if options.tokenizer:
            config["tokenizer"] = str(options.tokenizer.resolve())
        found = [_until_first_step(folder, config, number) for number in range(options.rounds + 1)][1:]
    yield {"wait": f"the trainer's first step, {options.base.name}", "seconds": statistics.median(found), "at most": 20}


def _until_first_step(folder: Path, config: dict, number: int) -> float:
    """Seconds from the command to the plan, after which steps begin; number 0 fills the caches."""
    path = folder / f"{number}.yaml"
    path.write_text(json.dumps({**config, "output": str(folder / f"{number}.safetensors")}))
    begun = time.time()
    subprocess.run([sys.executable, "-m", "training", "train", str(path)], cwd=PACK, check=True, capture_output=True)
    events = [json.loads(line) for line in (folder / f"{number}.run/events.jsonl").read_text("utf-8").splitlines()]
    if number and any(event["misses"] for event in events if event["event"] == "caching"):
        raise RuntimeError(f"round {number}: expected all to be cached, found misses")
    plan = next(event["time"] for event in events if event["event"] == "plan")
    return datetime.datetime.fromisoformat(plan).timestamp() - begun


def _file(options: argparse.Namespace) -> Iterator[dict]:
    tuner = CSCTuner(SkipLayout.from_channels([1280] * 5 + [640] * 3 + [320] * 4, "sd1"), kernel=3)
    parameters = sum(p.numel() for p in tuner.parameters()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = save_tuner(tuner, Path(folder) / "control.safetensors")
        # load_tuner sees whether all weights are finite, and safetensors maps a file and reads nothing of it
        ways = {"ours": lambda: load_tuner(path), "bare": lambda: [t.sum() for t in load_file(path).values()]}
        yield _beside(f"a control's file of {parameters:.1f} M parameters", 3 * options.rounds, time.perf_counter, ways)


def _hints(options: argparse.Namespace) -> Iterator[dict]:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 16, 16, generator=draw)  # even areas, edges and some noise
    image = torch.nn.functional.interpolate(coarse, size=(512, 512)).permute(0, 2, 3, 1)
    image = (image + 0.02 * torch.rand(image.shape, generator=draw)).clamp(0, 1).contiguous()

    def mosaic(picture):
        small = cv2.resize(picture, (8, 8), interpolation=cv2.INTER_CUBIC)
        return cv2.resize(small, (512, 512), interpolation=cv2.INTER_NEAREST)

    def bare(call) -> torch.Tensor:
        found = torch.from_numpy(call((image[0] * 255).round().to(torch.uint8).numpy())).float() / 255
        return (found if found.ndim == 3 else found[..., None].repeat(1, 1, 3))[None]

    calls = {"canny": (canny, lambda picture: cv2.Canny(picture, 100, 200)), "colour palette": (color_palette, mosaic)}
    for name, (ours, call) in calls.items():
        if not torch.equal(ours(image), bare(call)):
            raise SystemExit(f"{name}: expected the picture of the bare calls, found another; nothing was measured")
        ways = {"ours": lambda ours=ours: ours(image), "bare": lambda call=call: bare(call)}
        yield _beside(f"{name} of 512 x 512", 10 * options.rounds, time.thread_time, ways)


def _beside(wait: str, rounds: int, clock, ways: dict) -> dict:
    found = in_turns(rounds, clock, ways)
    ratio = round(found["ours"] / found["bare"], 3)
    return {"wait": wait, "seconds": found["ours"], "bare": found["bare"], "ratio": ratio, "at most": 1.5}


WAITS = {"pack": _pack, "trainer": _trainer, "file": _file, "hints": _hints}

if __name__ == "__main__":
    main()
