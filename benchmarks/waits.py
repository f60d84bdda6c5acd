"""What a user waits for beside sampling and training: the pack's start, the trainer's, a file, a hint, several tuners.

    python -m benchmarks.waits [--only pack trainer file hints sweep] [--host COMFYUI] [--rounds 5]
                               [--base FILE [--tokenizer FOLDER]] [--out FILE.json]

On one thread:

pack:     to import the pack into ComfyUI and list its nodes, in processes that have imported ComfyUI already.
trainer:  from its command to its first step, with everything cached, on four small pictures and --base, a checkpoint
          file or a diffusers folder; left out without one.  --tokenizer is CLIP's, where none is found.
file:     to load a CSC-Tuner of SD 1.5 with kernel 3, beside reading every weight of it with the bare safetensors.
hints:    canny and colour palette of a picture of 512 x 512, a tensor as the nodes have it, beside the bare calls of
          cv2 with the conversions that they need, in time of the processor.
sweep:    an update of four SC-Tuners trained in one pass on the embedded base, in float32, beside the updates of the
          four one after the other, in time of the processor; `bare` is the latter.
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
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from benchmarks import frame
from benchmarks.frame import HOST, PACK, finish, host_version, in_turns, keep_memory, machine, show, some_of
from scedit_core import CSCTuner, SkipLayout, load_tuner, save_tuner
from scedit_core.conditions.canny import canny
from scedit_core.conditions.color_palette import color_palette
from scedit_core.fitting.events import Events
from scedit_core.fitting.loop import apply_update, update
from scedit_core.fitting.run import Run
from scedit_core.fitting.run_folder import RunFolder
from scedit_core.fitting.step import TrainingStep
from scedit_core.fitting.sweep import beside, passes_together, variants
from training.config_file import parse_config
from training.demo.pictures import write_pictures
from training.loop import prepare
from training.memory.preparing import prepare_tuner

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
    options = frame.options(__doc__, only=some_of(WAITS), host=HOST, base=Path, tokenizer=Path, rounds=5)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = [row for name in options.only for row in WAITS[name](options)]
    show("waits", rows)
    finish({"machine": machine(), "rounds": options.rounds, "rows": rows}, options)


def _pack(options: argparse.Namespace) -> Iterator[dict]:
    wait = f"the pack in ComfyUI {host_version(options.host)}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # hosts keep compiled files
    command = [sys.executable, "-c", _IMPORT, str(PACK)]
    run = {"cwd": options.host, "env": environment, "capture_output": True, "text": True, "check": True}
    told = [subprocess.run(command, **run).stdout.splitlines()[-1] for _ in range(options.rounds + 1)]
    yield {"wait": wait, "seconds": statistics.median(map(float, told[1:])), "at most": 0.3}


def _trainer(options: argparse.Namespace) -> Iterator[dict]:
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


def _sweep(options: argparse.Namespace) -> Iterator[dict]:
    keep_memory()
    for batch in (4, 16):
        with tempfile.TemporaryDirectory() as folder:
            runs = _four_runs(Path(folder), batch)
            apart = [replace(each, step_module=TrainingStep(each.base, each.tuner)) for each in runs]
            ways = {
                "ours": lambda runs=runs: [
                    apply_update(*each) for each in zip(runs, passes_together(runs), strict=True)
                ],
                "bare": lambda apart=apart: list(map(update, apart)),
            }
            in_turns(2, time.process_time, ways)
            wait = f"an update of four SC-Tuners, batch {batch}"
            yield _beside(wait, 4 * options.rounds, time.process_time, ways, at_most=None)
            for each in runs:
                each.events.close()


def _four_runs(folder: Path, batch: int) -> list[Run]:
    config = parse_config({
        "base": str(PACK / "demo"), "output": str(folder / "tuner.safetensors"), "tuner": {"kind": "sc"},
        "data": {"folder": str(PACK / "demo" / "style"), "resolution": 128, "cache": str(folder)},
        "loop": {"batch": batch, "precision": "fp32"},
    })  # fmt: skip
    run = prepare(config, Accelerator(), RunFolder(folder), Events())
    configs = variants(config, {"learning_rate": [1e-3, 2e-3, 3e-3, 4e-3]}).values()
    return [beside(run, each, partial(prepare_tuner, memory=config.memory)) for each in configs]


def _beside(wait: str, rounds: int, clock: Callable[[], float], ways: dict, at_most: float | None = 1.5) -> dict:
    found = in_turns(rounds, clock, ways)
    ratio = round(found["ours"] / found["bare"], 3)
    return {"wait": wait, "seconds": found["ours"], "bare": found["bare"], "ratio": ratio, "at most": at_most}


WAITS = {"pack": _pack, "trainer": _trainer, "file": _file, "hints": _hints, "sweep": _sweep}

if __name__ == "__main__":
    main()
