"""A tiny random base model and a folder of drawn pictures, made by a process that has the trainer's packages."""

from __future__ import annotations

from pathlib import Path

import warm
from conftest import PACK_ROOT

_MAKE = (
    "import sys, pathlib; sys.path[:0] = sys.argv[1:3]; import tiny_base; folder = pathlib.Path(sys.argv[3]); "
    "tiny_base.write_tiny_base(folder / 'base'); tiny_base.write_drawn_pictures(folder / 'pictures')"
)

# What a configuration file says so that a run on that base takes milliseconds for a step and seconds in all.
QUICK = """\
base: base
data: {resolution: 64}
loop: {batch: 1, warmup: 0, precision: fp32, ema: null}
previews: {every: 5, count: 1, steps: 2}
validation: {every: 0}
"""


def write_tiny_training(folder: Path) -> Path:
    """Write `folder`/base, `folder`/pictures and `folder`/quick.yaml; gives the folder."""
    done = warm.run_code(_MAKE, PACK_ROOT, PACK_ROOT / "tests" / "training", folder)
    if done.returncode:
        raise RuntimeError(f"the tiny base could not be made:\n{done.stdout[-3000:]}")
    (folder / "quick.yaml").write_text(QUICK)
    return folder
