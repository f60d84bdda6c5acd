"""What the loop waits for: reading cached rows of a control at 512 px, and what of a step that is.

    python benchmarks/data_reading.py [--steps 40] [--output data_reading.json]

Photographs (smooth, with noise) at 512 px, in batches of 16, with the hints of three conditions: completion, whose
cached hint is the photograph itself, canny, and a palette of flat colours.  A hint's time is that of one thread's
processor; beside it that of a PNG, as hints were kept before, and both are compared bit by bit.  The step that stands
in for the U-Net's is a matrix product of 0.3 s on all cores, as a step of SD 1.5 on a CPU keeps them all busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "training"))

import tiny_base

from scedit_core.pictures.reading import to_picture, to_tensor
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.cache import Cache
from training.data.opening import open_data

SIDE, BATCH, COUNT, STEP = 512, 16, 32, 0.3
CONDITIONS = {
    "completion": {"type": "completion"},
    "canny": {"type": "canny"},
    "color_palette": {"type": "color_palette"},
}


def photographs(folder: Path) -> Path:
    """Pictures that compress as photographs do."""
    folder.mkdir()
    for i in range(COUNT):
        chance = np.random.default_rng(i)
        rough = Image.fromarray(chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize(
            (SIDE, SIDE), Image.BICUBIC
        )
        pixels = np.asarray(rough) + chance.normal(0, 6, (SIDE, SIDE, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02d}.png", compress_level=1)
    return folder


def milliseconds(read: Callable[[], object], times: int = 25) -> float:
    """Of this thread's processor, the median."""
    read()
    taken = []
    for _ in range(times):
        begun = time.thread_time()
        read()
        taken.append(time.thread_time() - begun)
    return 1000 * statistics.median(taken)


def busy_step() -> Callable[[], None]:
    """A product that takes about STEP seconds on all cores."""
    a = torch.randn(1024, 1024)
    a @ a
    begun = time.perf_counter()
    for _ in range(8):
        a @ a
    count = max(1, round(STEP / ((time.perf_counter() - begun) / 8)))

    def step() -> None:
        for _ in range(count):
            a @ a

    return step


def measured(name: str, base, pictures: Path, folder: Path, steps: int) -> dict[str, float]:
    data = {"folder": str(pictures), "resolution": SIDE, "captions": "none", "condition": CONDITIONS[name]}
    values = {"base": "unused", "output": str(folder / f"{name}.safetensors"), "tuner": {"kind": "csc"}, "data": data}
    found = open_data(base, parse_config({**values, "loop": {"batch": BATCH}}))
    encoder, example = found._encoder, found.examples[0]
    hint = encoder.hint(example)
    before = Cache(folder / f"{name}-png")
    before.write_picture("hints", "00", to_picture(hint))
    assert torch.equal(to_tensor(before.read_picture("hints", "00")), hint)
    step, waited, begun = busy_step(), 0.0, time.perf_counter()
    found.batch(0, BATCH)
    for number in range(1, steps + 1):
        step()
        asked = time.perf_counter()
        found.batch(number, BATCH)
        waited += time.perf_counter() - asked
        if number == 2:  # the first ones find a cold cache of the system
            waited, begun = 0.0, time.perf_counter()
    total = time.perf_counter() - begun
    return {
        "hint_ms": milliseconds(lambda: encoder.hint(example)),
        "png_ms": milliseconds(lambda: to_tensor(before.read_picture("hints", "00"))),
        "hint_kib": sum(p.stat().st_size for p in encoder._hint_paths(example) if p.is_file()) / 1024,
        "png_kib": before.picture_path("hints", "00").stat().st_size / 1024,
        "step_s": total / (steps - 2),
        "waited_percent": 100 * waited / total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = load_base(tiny_base.write_tiny_base(folder / "base"))
        pictures = photographs(folder / "pictures")
        rows = {name: measured(name, base, pictures, folder, options.steps) for name in CONDITIONS}
    print(f"{'hint':15}{'now ms':>8}{'PNG ms':>8}{'times':>7}{'now KiB':>9}{'PNG KiB':>9}{'step s':>8}{'waited':>8}")
    for name, row in rows.items():
        print(
            f"{name:15}{row['hint_ms']:8.2f}{row['png_ms']:8.2f}{row['png_ms'] / row['hint_ms']:7.1f}"
            f"{row['hint_kib']:9.0f}{row['png_kib']:9.0f}{row['step_s']:8.2f}{row['waited_percent']:7.1f}%"
        )
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
