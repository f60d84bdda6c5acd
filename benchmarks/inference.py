"""What tuners cost while sampling, beside ControlNet and T2I-Adapter: milliseconds a step, and memory.

    python benchmarks/inference.py [--host COMFYUI] [--model sd15 sdxl] [--latent N] [--width 320] [--dtype bfloat16]
                                   [--steps 4] [--rounds N] [--variants ...] [--out FILE.json] [--plot FILE.png]

On a ComfyUI checkout (--host, else COMFYUI_PATH, else ~/comfy/ComfyUI) tuners run as its nodes apply them; without one
they run on diffusers' U-Net.  A U-Net of the true shape with random weights samples one picture with a positive and a
negative prompt, which is batch 2: in half precision on a GPU, in float32 on a CPU, or in --dtype.  Each variant runs at
once with the base, a step of one after a step of the other, so that what else the machine does falls on both; the ratio
is the median over all pairs of steps, with the interval in which it lies with a confidence of 95 %.  On a CPU the
edits of skips and the computing of controls, ControlNet's and T2I-Adapter's too, are timed as well: `inside` is a step
over the same step less what they took, which no other work disturbs; and FLOPs and the most bytes that tensors hold at
once, weights included, are counted, where on a GPU the allocator tells them.  The first step of a run, which encodes
hints, is a column of its own.  Ctrl+C ends it with the rounds so far.  Prints a table, writes JSON with the machine and
the versions, and draws one plot.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from frame import finish, keep_memory, listen_to_ctrl_c, machine, parser
from inference_turns import in_turns
from step_counts import StepCost
from torch import Tensor

TARGETS = {"SC-Tuner": 1.03, "CSC-Tuner": 1.04, "four CSC-Tuners": 1.12}
LATENTS = {"sd15": 64, "sdxl": 128}
BASE = "base"


class Backend(Protocol):
    """Something that samples.

    title:    what it is, with its version.
    device:   what it runs on.
    dtype:    what it computes in.
    variants: their names, the base first.
    edit_seconds: time spent so far in edits of skips and in computing controls, 0 where it is not measured.
    """

    title: str
    device: str
    dtype: str
    variants: list[str]
    edit_seconds: float

    def run(self, variant: str, steps: int, after_step: Callable[[], None]) -> None:
        """Sample, calling `after_step` after each of `steps` steps."""

    def mark(self) -> Any:
        """This moment on the device."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Seconds between two marks."""

    def weights(self, variant: str) -> list[Tensor]:
        """All weights that the variant needs, the U-Net's included, each once."""

    def peak(self, variant: str) -> int | None:
        """The most bytes that the variant holds on a GPU in two steps; without one None, and nothing sampled."""


def main() -> None:
    """Measure, print, write, draw."""
    options = _options()
    keep_memory()
    listen_to_ctrl_c()
    report: dict[str, Any] = {"machine": machine(), "batch": 2, "models": {}}
    for model in options.model:
        latent = options.latent or _latent(model)
        backend = _backend(options, model, latent)
        report |= {"backend": backend.title, "device": backend.device, "dtype": backend.dtype}
        report["models"][model] = {"latent": latent, "width": options.width, "rows": _rows(backend, options)}
        _print(report, model)
    finish(report, options, _draw)


def _draw(report: dict[str, Any], path: Path) -> None:
    from inference_plot import draw  # matplotlib, which a host may not have

    draw(report, path)


def _rows(backend: Backend, options: argparse.Namespace) -> list[dict[str, Any]]:
    names = [n for n in backend.variants if n == BASE or not options.variants or n in options.variants]
    # a CPU times inside a step, for which few rounds do, and is slow
    rounds = options.rounds or (2 if backend.device.startswith("CPU") else 8)
    costs = {}
    for name in names:
        costs[name] = _cost(backend, name)
        print(f"ready: {name}", file=sys.stderr)
    first: dict[str, list[float]] = {name: [] for name in names}
    later: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    inside: dict[str, list[float]] = {name: [] for name in names}
    try:
        for done in range(rounds):
            for name in names[1:]:
                base, beside = in_turns(backend, (BASE, name), options.steps)
                for each, steps in ((BASE, base), (name, beside)):
                    first[each].append(steps[0][0])
                    later[each] += [whole for whole, _ in steps[1:]]
                ratios[name] += [b / a for (a, _), (b, _) in zip(base[1:], beside[1:], strict=True)]
                inside[name] += [whole / (whole - edits) for whole, edits in beside[1:] if edits]
            print(f"round {done + 1} of {rounds}", file=sys.stderr)
    except KeyboardInterrupt:
        if not ratios[names[-1]]:
            raise
    weights = {name: sum(each.nbytes for each in backend.weights(name)) for name in names}
    return [
        {
            "variant": name,
            "step_ms": round(1000 * statistics.median(later[name]), 2),
            "first_step_ms": round(1000 * statistics.median(first[name]), 2),
            "pairs": len(ratios[name]),
            "ratio": round(statistics.median(ratios[name] or [1.0]), 4),
            "ratio_interval": [round(r, 4) for r in _interval(ratios[name] or [1.0])],
            "inside": round(statistics.median(inside[name]), 4) if inside[name] else None,
            "target": TARGETS.get(name),
            "weights_mb": round((weights[name] - weights[BASE]) / 1e6, 1),
            "flops": round(costs[name][0] / costs[BASE][0], 4) if costs[BASE][0] else None,
            "peak_mb": round(costs[name][1] / 1e6, 1),
        }
        for name in names
    ]


def _cost(backend: Backend, name: str) -> tuple[int, int]:
    """FLOPs of a step, 0 where they are not counted, and the most bytes held; loads and warms up."""
    peak = backend.peak(name)
    if peak is not None:
        return 0, peak
    flops: list[int] = []
    with StepCost(backend.weights(name)) as cost:
        backend.run(name, 2, lambda: flops.append(cost.flops))
    return flops[1] - flops[0], cost.peak


def _interval(values: list[float]) -> tuple[float, float]:
    """Where the median lies with a confidence of 95 %, from the order of the values alone."""
    ordered, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    return ordered[max(0, math.floor(n / 2 - reach))], ordered[min(n - 1, math.ceil(n / 2 + reach) - 1)]


def _print(report: dict[str, Any], model: str) -> None:
    told = report["models"][model]
    print(
        f"{model}, latent {told['latent']}, width {told['width']}, batch {report['batch']}; {report['backend']}, "
        f"{report['device']}, {report['dtype']}, torch {report['machine']['torch']}"
    )
    heads = {"step": 12, "first step": 14, "ratio": 9, "95 %": 18, "inside": 8, "target": 8, "FLOPs": 8}
    heads |= {"weights": 11, "peak": 11}
    print(f"{'variant':<24}" + "".join(f"{name:>{width}}" for name, width in heads.items()))
    for row in told["rows"]:
        low, high = row["ratio_interval"]
        target = "" if row["target"] is None else f"{row['target']:.2f}"
        inside = "" if row["inside"] is None else f"{row['inside']:.3f}"
        flops = "" if row["flops"] is None else f"{row['flops']:.3f}"
        print(
            f"{row['variant']:<24}{row['step_ms']:>9.1f} ms{row['first_step_ms']:>11.1f} ms{row['ratio']:>9.3f}"
            f"{f'{low:.3f} to {high:.3f}':>18}{inside:>8}{target:>8}{flops:>8}"
            f"{row['weights_mb']:>8.0f} MB{row['peak_mb']:>8.0f} MB"
        )


def _latent(model: str) -> int:
    """Side of the model's own latent; half of it on a CPU, which is slow, and where a tuner's share is the larger."""
    return LATENTS[model] if torch.cuda.is_available() else LATENTS[model] // 2


def _backend(options: argparse.Namespace, model: str, latent: int) -> Backend:
    if options.host is not None:
        from inference_host import HostBackend

        return HostBackend(options.host, model, latent, options.width, options.dtype)
    from inference_diffusers import DiffusersBackend

    return DiffusersBackend(model, latent, options.width, options.dtype)


def _options() -> argparse.Namespace:
    made = parser(__doc__, plot=True)
    made.add_argument("--host", type=Path, default=found_host(), help="a ComfyUI checkout")
    made.add_argument("--no-host", dest="host", action="store_const", const=None, help="measure on diffusers")
    made.add_argument("--model", nargs="+", choices=LATENTS, default=["sd15"])
    made.add_argument("--latent", type=int, help="side of the latent, by default the model's own, on a CPU half of it")
    made.add_argument("--width", type=int, default=320, help="channels of the U-Net's first level, truly 320")
    made.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="that of weights and computation")
    made.add_argument("--steps", type=int, default=4, help="sampling steps in each run")
    made.add_argument("--rounds", type=int, help="runs of each variant, 8 by default, on a CPU 2")
    made.add_argument("--variants", nargs="+", help="names of those to measure, all by default")
    options = made.parse_args()
    if options.steps < 2:
        made.error(f"--steps: expected at least 2, since the first is told apart, found {options.steps}; raise it")
    return options


def found_host() -> Path | None:
    named = os.environ.get("COMFYUI_PATH", "").split(os.pathsep)[0] or "~/comfy/ComfyUI"
    path = Path(named).expanduser()
    return path if (path / "comfyui_version.py").is_file() else None


if __name__ == "__main__":
    main()
