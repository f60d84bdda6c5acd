"""What tuners cost in this build and in another one, step by step in turn: time in edits, and the first step.

    python -m benchmarks.inference_before --before CHECKOUT [--host COMFYUI] [--latent 64] [--dtype bfloat16]
                                          [--variants ...] [--steps 4] [--seconds 300] [--out FILE.json]

On a ComfyUI checkout, on a CPU.  Both builds run on one U-Net of SD 1.5's shape with random weights, a step of one
after a step of the other.  `inside` is a step over the same step less what edits and controls took in it; `added` is
the time of the edits over that of the other build's, the median of all pairs of steps after the first.  `first` is the
first step of a run, with hints and folding, over the other build's: its edits, and the whole step.  No round begins
after --seconds.

At the end the edits of four CSC-Tuners at SDXL 1024 px are timed without their U-Net, on random skips.  Prints a table
and writes JSON.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.frame import finish, host_version, keep_memory, machine, parser, show
from benchmarks.inference_host import BEFORE, NAME, HostBackend, load_host
from benchmarks.inference_turns import in_turns

VARIANTS = ("four CSC-Tuners", "SC-Tuner", "CSC-Tuner")
# Skips of SDXL at 1024 px, deepest first: channels and side.
SDXL = [(1280, 32)] * 2 + [(640, 32)] + [(640, 64)] * 2 + [(320, 64)] + [(320, 128)] * 3


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__, host=True)
    made.add_argument("--before", type=Path, required=True, help="a checkout of the other build")
    made.add_argument("--latent", type=int, default=64, help="side of the latent")
    made.add_argument("--width", type=int, default=320, help="channels of the U-Net's first level, truly 320")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    made.add_argument("--variants", nargs="+", default=list(VARIANTS))
    made.add_argument("--steps", type=int, default=4, help="sampling steps in each run")
    made.add_argument("--seconds", type=float, default=300, help="after which no round begins")
    options = made.parse_args()
    host_version(options.host)
    keep_memory()
    begun = time.perf_counter()
    host = load_host(options.host, options.dtype)
    only = [prefix + name for name in options.variants for prefix in ("", BEFORE)]
    backend = HostBackend(host, "sd15", options.latent, options.width, only=only, before=options.before)
    for name in options.variants:  # loads; the hints of a later run are new to it all the same
        for each in (name, BEFORE + name):
            backend.run(each, 1, lambda: None)
    print(f"ready after {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    spans: dict[str, list] = {name: [] for name in options.variants}
    while True:
        for name in options.variants:
            spans[name].append(in_turns(backend, (name, BEFORE + name), options.steps))
            print(f"{time.perf_counter() - begun:.0f} s: {name}", file=sys.stderr, flush=True)
            if time.perf_counter() - begun > options.seconds and all(spans.values()):
                break
        else:
            continue
        break
    rows = [_row(name, runs) for name, runs in spans.items()]
    alone = _sdxl_alone(options.width / 320)
    heads = ("variant", "pairs", "inside", "before", "added / before", "first edits / before", "first step / before")
    keys = ("variant", "pairs", "inside", "inside_before", "added", "first_edits", "first_step")
    show(
        f"{backend.title}, {backend.device}, {backend.dtype}", heads, [[str(row[key]) for key in keys] for row in rows]
    )
    print(f"four CSC-Tuners at SDXL 1024 px, edits alone: {alone}")
    report = {"machine": machine(), "backend": backend.title, "device": backend.device, "dtype": backend.dtype}
    finish(report | {"latent": options.latent, "rows": rows, "sdxl_edits_alone": alone}, options)


def _row(name: str, runs: list) -> dict[str, Any]:
    """Of runs [now, before] of steps (seconds, seconds in edits)."""
    now, before = ([step for run in runs for step in run[i][1:]] for i in (0, 1))
    first, first_before = ([run[i][0] for run in runs] for i in (0, 1))
    return {
        "variant": name,
        "pairs": len(now),
        "step_ms": _milliseconds(whole for whole, _ in now),
        "edits_ms": _milliseconds(edits for _, edits in now),
        "edits_before_ms": _milliseconds(edits for _, edits in before),
        "inside": _median(whole / (whole - edits) for whole, edits in now),
        "inside_before": _median(whole / (whole - edits) for whole, edits in before),
        "added": _median(a / b for (_, a), (_, b) in zip(now, before, strict=True)),
        "first_step_ms": _milliseconds(whole for whole, _ in first),
        "first_edits_ms": _milliseconds(edits for _, edits in first),
        "first_edits_before_ms": _milliseconds(edits for _, edits in first_before),
        "first_edits": _median(a / b for (_, a), (_, b) in zip(first, first_before, strict=True)),
        "first_step": _median(a / b for (a, _), (b, _) in zip(first, first_before, strict=True)),
    }


@torch.inference_mode()
def _sdxl_alone(share: float) -> dict[str, Any]:
    """Seconds of all edits of a step, batch 2 in bfloat16: folded here, tuner by tuner in the other build."""
    like = torch.bfloat16
    skips = [torch.randn(2, int(c * share), side, side, dtype=like) for c, side in SDXL]
    ways = {}
    for label, name in (("now", NAME), ("before", f"{NAME}_before")):
        core = importlib.import_module(f"{name}.scedit_core")
        layout = core.SkipLayout(tuple(s.shape[1] for s in skips), tuple(128 // s.shape[-1] for s in skips))
        edits = []
        for _ in range(4):
            tuner = core.CSCTuner(layout, hint_ratio=2).to(like).eval().requires_grad_(False)
            features = [torch.randn(1, *s.shape[1:], dtype=like) for s in skips]
            edits.append(importlib.import_module(f"{name}.scedit_core.editing").Edit(tuner, 0.5, features))
        ways[label] = _whole(name, edits, skips)
    seconds: dict[str, list[float]] = {label: [] for label in ways}
    for turn in range(4):
        for label, way in ways.items():
            begun = time.perf_counter()
            way()
            if turn:  # the first makes what the others use
                seconds[label].append(time.perf_counter() - begun)
    return {label: round(1000 * median(each), 1) for label, each in seconds.items()} | {
        "added": _median(a / b for a, b in zip(seconds["now"], seconds["before"], strict=True))
    }


def _whole(name: str, edits: list, skips: list):
    """What edits all skips in that build."""
    if name == NAME:
        folding = importlib.import_module(f"{name}.scedit_core.folding")
        groups = folding.folded(edits, skips[0])
        return lambda: [folding.edit_folded(b, skip, groups) for b, skip in enumerate(skips)]
    editing = importlib.import_module(f"{name}.scedit_core.editing")
    return lambda: [editing.edit_skip(b, skip, edits) for b, skip in enumerate(skips)]


def _milliseconds(seconds) -> float:
    return round(1000 * median(list(seconds)), 1)


def _median(values) -> float:
    return round(median(list(values)), 4)


if __name__ == "__main__":
    main()
