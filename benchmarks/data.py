"""What the trainer's data cost: rows of a control read from the cache, and a set of ten thousand pictures.

    python -m benchmarks.data [--only reading scale] [--steps 40] [--pictures 10000] [--batches 5000] [--work FOLDER]
                              [--out FILE.json]

reading:  photographs (smooth, with noise) at 512 px, in batches of 16, with the hints of three conditions: completion,
          whose cached hint is the photograph itself, canny, and a palette of flat colours.  A hint's time is that of
          one thread's processor; beside it that of a PNG, as hints were kept before, and both are compared bit by bit.
          The step that stands in for the U-Net's is a matrix product of 0.3 s on all cores, as a step of SD 1.5 on a
          CPU keeps them all busy; `waited` is the share of the time in which the loop waited for its batch.
scale:    pictures with three captions each, drawn at random at 64 px and encoded by a tiny base, since what is measured
          is what is kept of each picture: how long `check` takes, as a process of its own, the first time and when all
          is cached, and the resident memory while --batches of 4 are read and nothing else.  --work keeps them.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml
from PIL import Image

from benchmarks import frame
from benchmarks.frame import MIB, PACK, finish, in_turns, machine, show, some_of
from scedit_core.pictures.reading import to_picture, to_tensor
from training.bases.loading import load_base
from training.config_file import load_config, parse_config
from training.data.cache import Cache
from training.data.opening import open_data

sys.path.append(str(PACK / "tests" / "training"))
from tiny_base import write_tiny_base

SIDE, BATCH, COUNT, STEP = 512, 16, 32, 0.3
CONDITIONS = ("completion", "canny", "color_palette")
SUBJECTS, PLACES = ("star", "heart", "fish", "house", "mushroom", "cat"), ("sea", "night", "paper", "hill", "moon")


def main() -> None:
    """Measure, print, write."""
    parts = {"reading": _reading, "scale": _scale}
    options = frame.options(__doc__, only=some_of(parts), steps=40, pictures=10_000, batches=5000, work=Path)
    report = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            work = Path(folder) / name
            work.mkdir()
            report[name] = parts[name](work, options)
            show(name, report[name])
    finish(report, options)


def _reading(folder: Path, options: argparse.Namespace) -> list[dict]:
    base, pictures = load_base(write_tiny_base(folder / "base")), folder / "pictures"
    pictures.mkdir()
    for i in range(COUNT):  # which compress as photographs do
        chance = np.random.default_rng(i)
        rough = Image.fromarray(chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize(
            (SIDE, SIDE), Image.BICUBIC
        )
        pixels = np.asarray(rough) + chance.normal(0, 6, (SIDE, SIDE, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(pictures / f"{i:02d}.png", compress_level=1)
    return [_condition(name, base, pictures, folder, options.steps) for name in CONDITIONS]


def _condition(name: str, base, pictures: Path, folder: Path, steps: int) -> dict:
    data = {"folder": str(pictures), "resolution": SIDE, "captions": "none", "condition": {"type": name}}
    values = {"base": "unused", "output": str(folder / f"{name}.safetensors"), "tuner": {"kind": "csc"}, "data": data}
    found = open_data(base, parse_config({**values, "loop": {"batch": BATCH}}))
    encoder, example = found._encoder, found.examples[0]
    hint = encoder.hint(example)
    before = Cache(folder / f"{name}-png")
    before.write_picture("hints", "00", to_picture(hint))
    assert torch.equal(to_tensor(before.read_picture("hints", "00")), hint)
    step, waited, begun = _busy_step(), 0.0, time.perf_counter()
    found.batch(0, BATCH)
    for number in range(1, steps + 1):
        step()
        asked = time.perf_counter()
        found.batch(number, BATCH)
        waited += time.perf_counter() - asked
        if number == 2:  # the first ones find a cold cache of the system
            waited, begun = 0.0, time.perf_counter()
    total = time.perf_counter() - begun
    ways = {"hint": lambda: encoder.hint(example), "png": lambda: to_tensor(before.read_picture("hints", "00"))}
    taken = in_turns(25, time.thread_time, ways)
    return {
        "hint": name,
        "hint_ms": 1000 * taken["hint"],
        "png_ms": 1000 * taken["png"],
        "hint_kib": sum(p.stat().st_size for p in encoder._hint_paths(example) if p.is_file()) / 1024,
        "png_kib": before.picture_path("hints", "00").stat().st_size / 1024,
        "step_s": total / (steps - 2),
        "waited_percent": 100 * waited / total,
    }


def _busy_step() -> Callable[[], None]:
    """A product that takes about STEP seconds on all cores."""
    a, times = torch.randn(1024, 1024), 8
    a @ a
    begun = time.perf_counter()
    for _ in range(times):
        a @ a
    count = max(1, round(STEP * times / (time.perf_counter() - begun)))
    return lambda: [a @ a for _ in range(count)] and None


def _scale(folder: Path, options: argparse.Namespace) -> list[dict]:
    work = options.work or folder
    if not (work / "set").is_dir():
        write_tiny_base(work / "base")
        _write_set(work / "set", options.pictures)
    values = {
        "base": "base", "output": "tuner.safetensors", "tuner": {"kind": "sc"}, "tensorboard": False,
        "data": {"folder": "set", "resolution": 64, "cache": "cache", "wording": {"lines": True}},
    }  # fmt: skip
    (work / "train.yaml").write_text(yaml.safe_dump(values))
    config, process = load_config(work / "train.yaml"), psutil.Process()
    begun = time.perf_counter()
    data = open_data(load_base(config.base), config)
    found = {"pictures": len(data.examples), "opened_s": time.perf_counter() - begun}
    for key in ("check_s", "again_s"):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "training", "check", str(work / "train.yaml")], cwd=PACK, check=True)
        found[key] = time.perf_counter() - begun
    every, resident = max(1, options.batches // 10), []
    for step in range(options.batches + 1):
        data.batch(step, 4)
        if step % every == 0:
            resident.append(process.memory_info().rss / MIB)
    return [found | {"memory_mib": resident[0], "growth_mib": max(resident[1:]) - resident[0]}]


def _write_set(folder: Path, count: int) -> None:
    """Pictures with three captions each, in one file each; 3 times `count` different captions."""
    folder.mkdir(parents=True)
    for i in range(count):
        chance = random.Random(i)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{i:05d}.jpg")
        lines = [f"a {chance.choice(SUBJECTS)} on a {chance.choice(PLACES)}, picture {i} {kind}" for kind in range(3)]
        (folder / f"{i:05d}.txt").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
