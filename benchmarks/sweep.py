"""Four tuners trained in one pass (`sweep`) and one after the other, on the embedded base: processor time of an update.

    python -m benchmarks.sweep [--batches 4 16] [--rounds 20] [--threads 1] [--out FILE.json]

The trainer's own updates, in float32; both ways take turns.  Prints a table and writes JSON.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.frame import PACK, finish, in_turns, keep_memory, machine, parser, show
from scedit_core.fitting.events import Events
from scedit_core.fitting.loop import update
from scedit_core.fitting.run_folder import RunFolder
from scedit_core.fitting.step import TrainingStep
from scedit_core.fitting.sweep import beside, update_together, variants
from training.config_file import parse_config
from training.loop import prepare
from training.memory.preparing import prepare_tuner

RATES = [1e-3, 2e-3, 3e-3, 4e-3]


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--batches", type=int, nargs="+", default=[4, 16])
    made.add_argument("--rounds", type=int, default=20)
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    rows = [_row(batch, options.rounds) for batch in options.batches]
    heads = ("batch", "alone ms", "together ms", "together / alone")
    show("Four SC-Tuners on the embedded base", heads, [[str(each) for each in row.values()] for row in rows])
    finish({"machine": machine("diffusers"), "rows": rows}, options)


def _row(batch: int, rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config({
            "base": str(PACK / "demo"), "output": f"{folder}/tuner.safetensors", "tuner": {"kind": "sc"},
            "data": {"folder": str(PACK / "demo" / "style"), "resolution": 128, "cache": folder},
            "loop": {"batch": batch, "precision": "fp32"},
        })  # fmt: skip
        run = prepare(config, Accelerator(), RunFolder(Path(folder)), Events())
        configs = variants(config, {"learning_rate": RATES}).values()
        runs = [beside(run, each, lambda tuner: prepare_tuner(tuner, config.memory)) for each in configs]
        apart = [replace(each, step_module=TrainingStep(each.base, each.tuner)) for each in runs]
        ways = {"alone": lambda: [update(each) for each in apart], "together": lambda: update_together(runs)}
        in_turns(2, time.process_time, ways)
        found = in_turns(rounds, time.process_time, ways)
        for each in runs:
            each.events.close()
    times = {f"{name}_ms": round(1000 * found[name], 1) for name in ways}
    return {"batch": batch, **times, "ratio": round(found["together"] / found["alone"], 3)}


if __name__ == "__main__":
    main()
