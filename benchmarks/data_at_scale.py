"""Ten thousand pictures with three captions each: how long `check` takes when all is cached, and what memory does.

    python benchmarks/data_at_scale.py [--pictures 10000] [--steps 5000] [--work FOLDER] [--output data_at_scale.json]

Pictures are drawn at random at 64 px and encoded by a tiny base, since what is measured is not the encoding but what is
kept of each picture: its path, its captions, its sizes.  `check` runs as a process of its own, with its two updates.
Memory is the resident memory of this process, at ten points of the steps, while it reads batches of 4 and nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "training")]

import tiny_base  # noqa: E402

from training.bases.loading import load_base  # noqa: E402
from training.config_file import load_config  # noqa: E402
from training.data.opening import open_data  # noqa: E402

SUBJECTS, PLACES = ("star", "heart", "fish", "house", "mushroom", "cat"), ("sea", "night", "paper", "hill", "moon")


def write_set(folder: Path, count: int) -> None:
    """Pictures with three captions each, in one file each; 3 times `count` different captions."""
    folder.mkdir(parents=True)
    for i in range(count):
        chance = random.Random(i)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{i:05d}.jpg")
        lines = [f"a {chance.choice(SUBJECTS)} on a {chance.choice(PLACES)}, picture {i} {kind}" for kind in range(3)]
        (folder / f"{i:05d}.txt").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--work", type=Path, help="a folder to keep the set and its cache in")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        if not (work / "set").is_dir():
            tiny_base.write_tiny_base(work / "base")
            write_set(work / "set", options.pictures)
        values = {
            "base": "base",
            "output": "tuner.safetensors",
            "tuner": {"kind": "sc"},
            "data": {"folder": "set", "resolution": 64, "cache": "cache", "wording": {"lines": True}},
            "tensorboard": False,
        }
        (work / "train.yaml").write_text(yaml.safe_dump(values))
        config, process = load_config(work / "train.yaml"), psutil.Process()
        begun = time.perf_counter()
        data = open_data(load_base(config.base), config)
        found = {"pictures": len(data.examples), "opened_s": time.perf_counter() - begun}
        for key in ("check_s", "again_s"):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-m", "training", "check", str(work / "train.yaml")], cwd=ROOT, check=True)
            found[key] = time.perf_counter() - begun
        every, resident = max(1, options.steps // 10), []
        for step in range(options.steps + 1):
            data.batch(step, 4)
            if step % every == 0:
                resident.append(process.memory_info().rss / 2**20)
        found |= {"memory_mib": resident, "growth_mib": max(resident[1:]) - resident[0]}
    resident = ", ".join(f"{mebibytes:.0f}" for mebibytes in found["memory_mib"])
    print(f"{found['pictures']} pictures, opened in {found['opened_s']:.0f} s")
    print(f"check: {found['check_s']:.1f} s the first time, {found['again_s']:.1f} s when all is cached")
    print(f"memory over {options.steps} steps: {resident} MiB; {found['growth_mib']:.1f} more than before the first")
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
