"""What a user waits for beside a step itself: the trainer's start, a file, several tuners, pictures, many pictures.

    python -m benchmarks.waits [--only trainer file sweep reading scale] [--rounds 5] [--base FILE [--tokenizer FOLDER]]
                               [--steps 40] [--pictures 10000] [--batches 5000] [--out FILE.json]

trainer:  from its command to its first step, with everything cached, on four small pictures and --base, a checkpoint
          file or a diffusers folder; left out without one.  --tokenizer is CLIP's, where none is found.
file:     to load a CSC-Tuner of SD 1.5 with kernel 3, beside reading every weight of it with the bare safetensors.
sweep:    an update of four SC-Tuners trained in one pass on the embedded base, in float32, beside the updates of the
          four one after the other, in time of the processor; `bare` is the latter.
reading:  photographs (smooth, with noise) at 512 px, in batches of 16, with cached hints of three conditions: the share
          of the time in which the loop waits for its batch.  The step that stands in for the U-Net's is a matrix
          product of 0.3 s on all cores, as a step of SD 1.5 on a CPU keeps them all busy.
scale:    pictures of 64 px with three captions each, encoded by a tiny base, since what is measured is what is kept of
          each picture: how long `check` takes where all is cached, as a process of its own, and the resident memory
          that --batches of 4 add.

The first three take one thread.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from benchmarks import frame
from benchmarks.frame import MIB, PACK, finish, in_turns, keep_memory, machine, show, some_of
from scedit_core import CSCTuner, SkipLayout, load_tuner, save_tuner
from scedit_core.fitting.events import Events
from scedit_core.fitting.loop import apply_update, update
from scedit_core.fitting.run import Run
from scedit_core.fitting.run_folder import RunFolder
from scedit_core.fitting.step import TrainingStep
from scedit_core.fitting.sweep import beside, passes_together, variants
from training.bases.loading import load_base
from training.config_file import load_config, parse_config
from training.data.opening import open_data
from training.demo.pictures import write_pictures
from training.loop import prepare
from training.memory.preparing import prepare_tuner

sys.path.append(str(PACK / "tests" / "training"))
from tiny_base import write_tiny_base

SIDE, BATCH, COUNT, STEP = 512, 16, 32, 0.3  # of `reading`: pixels, rows, pictures, seconds
CONDITIONS = ("completion", "canny", "color_palette")
SUBJECTS, PLACES = ("star", "heart", "fish", "house", "mushroom", "cat"), ("sea", "night", "paper", "hill", "moon")


def main() -> None:
    """Measure, print, write."""
    options = frame.options(
        __doc__, only=some_of(WAITS), base=Path, tokenizer=Path, rounds=5, steps=40, pictures=10_000, batches=5000
    )
    threads, rows = torch.get_num_threads(), []
    for name in options.only:
        torch.set_num_threads(threads if name in ("reading", "scale") else 1)
        with tempfile.TemporaryDirectory() as folder:
            rows += WAITS[name](Path(folder), options)
    show("waits", rows)
    finish({"machine": machine(), "rows": rows}, options)


def _trainer(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    if options.base is None:
        return
    write_pictures(folder / "pictures", 4, seed=5, style="lantern")
    config = {
        "base": str(options.base.resolve()), "tuner": {"kind": "sc"}, "loop": {"steps": 1, "batch": 1, "warmup": 0},
        "data": {"folder": str(folder / "pictures"), "resolution": 64, "cache": str(folder / "cache")},
        "previews": {"every": 0}, "validation": {"every": 0},
    }  # fmt: skip
    if options.tokenizer:
        config["tokenizer"] = str(options.tokenizer.resolve())
    found = [_until_first_step(folder, config, number) for number in range(options.rounds + 1)][1:]
    yield {"wait": f"the trainer's first step, {options.base.name}", "seconds": median(found), "at most": 20}


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


def _file(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    tuner = CSCTuner(SkipLayout.from_channels([1280] * 5 + [640] * 3 + [320] * 4, "sd1"), kernel=3)
    parameters = sum(p.numel() for p in tuner.parameters()) / 1e6
    path = save_tuner(tuner, folder / "control.safetensors")
    # load_tuner sees whether all weights are finite, and safetensors maps a file and reads nothing of it
    ways = {"ours": lambda: load_tuner(path), "bare": lambda: [t.sum() for t in load_file(path).values()]}
    yield _beside(
        f"a control's file of {parameters:.1f} M parameters", 3 * options.rounds, time.perf_counter, ways, 1.5
    )


def _sweep(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    keep_memory()
    for batch in (1, 2, 4, 16):
        runs = _four_runs(folder / str(batch), batch)
        apart = [replace(each, step_module=TrainingStep(each.base, each.tuner)) for each in runs]
        ways = {
            "ours": lambda runs=runs: [apply_update(*each) for each in zip(runs, passes_together(runs), strict=True)],
            "bare": lambda apart=apart: list(map(update, apart)),
        }
        in_turns(2, time.process_time, ways)
        wait = f"an update of four SC-Tuners, batch {batch}"
        yield _beside(wait, 4 * options.rounds, time.process_time, ways, 0.55)
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


def _beside(wait: str, rounds: int, clock: Callable[[], float], ways: dict, at_most: float) -> dict:
    found = in_turns(rounds, clock, ways)
    ratio = round(found["ours"] / found["bare"], 3)
    return {"wait": wait, "seconds": found["ours"], "bare": found["bare"], "ratio": ratio, "at most": at_most}


def _reading(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    base, pictures = load_base(write_tiny_base(folder / "base")), folder / "pictures"
    pictures.mkdir()
    for i in range(COUNT):  # which compress as photographs do
        chance = np.random.default_rng(i)
        rough = Image.fromarray(chance.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        pixels = np.asarray(rough.resize((SIDE, SIDE), Image.BICUBIC)) + chance.normal(0, 6, (SIDE, SIDE, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(pictures / f"{i:02d}.png", compress_level=1)
    for name in CONDITIONS:
        data = {"folder": str(pictures), "resolution": SIDE, "captions": "none", "condition": {"type": name}}
        values = {"base": "unused", "output": str(folder / f"{name}.safetensors"), "tuner": {"kind": "csc"}}
        found = open_data(base, parse_config({**values, "data": data, "loop": {"batch": BATCH}}))
        step, waited, begun = _busy_step(), 0.0, time.perf_counter()
        found.batch(0, BATCH)
        for number in range(1, options.steps + 1):
            step()
            asked = time.perf_counter()
            found.batch(number, BATCH)
            waited += time.perf_counter() - asked
            if number == 2:  # the first ones find a cold cache of the system
                waited, begun = 0.0, time.perf_counter()
        total = time.perf_counter() - begun
        seconds = {"seconds": waited / (options.steps - 2), "bare": total / (options.steps - 2)}
        yield {"wait": f"for a batch of 16, of a step: {name}", **seconds, "ratio": waited / total, "at most": 0.02}


def _busy_step() -> Callable[[], None]:
    """A product that takes about STEP seconds on all cores."""
    a, times = torch.randn(1024, 1024), 8
    a @ a
    begun = time.perf_counter()
    for _ in range(times):
        a @ a
    count = max(1, round(STEP * times / (time.perf_counter() - begun)))
    return lambda: [a @ a for _ in range(count)] and None


def _scale(folder: Path, options: argparse.Namespace) -> Iterator[dict]:
    write_tiny_base(folder / "base")
    _write_set(folder / "set", options.pictures)
    values = {
        "base": "base", "output": "tuner.safetensors", "tuner": {"kind": "sc"}, "tensorboard": False,
        "data": {"folder": "set", "resolution": 64, "cache": "cache", "wording": {"lines": True}},
    }  # fmt: skip
    path, process = folder / "train.yaml", psutil.Process()
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    data = open_data(load_base(config.base), config)
    for _ in range(2):  # the first one fills the cache
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "training", "check", str(path)], cwd=PACK, check=True)
        taken = time.perf_counter() - begun
    yield {"wait": f"check of {options.pictures} pictures", "seconds": taken, "at most": 40}
    every, resident = max(1, options.batches // 10), []
    for step in range(options.batches + 1):
        data.batch(step, 4)
        if step % every == 0:
            resident.append(process.memory_info().rss / MIB)
    yield {"wait": f"{options.batches} batches", "MiB that they add": max(resident[1:]) - resident[0], "at most": 50}


def _write_set(folder: Path, count: int) -> None:
    """Pictures with three captions each, in one file each; 3 times `count` different captions."""
    folder.mkdir(parents=True)
    for i in range(count):
        chance = random.Random(i)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{i:05d}.jpg")
        lines = [f"a {chance.choice(SUBJECTS)} on a {chance.choice(PLACES)}, picture {i} {kind}" for kind in range(3)]
        (folder / f"{i:05d}.txt").write_text("\n".join(lines))


WAITS = {"trainer": _trainer, "file": _file, "sweep": _sweep, "reading": _reading, "scale": _scale}

if __name__ == "__main__":
    main()
