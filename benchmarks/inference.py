"""What tuners cost while sampling, beside ControlNet, LLLite and T2I-Adapter: milliseconds a step, and memory.

    python -m benchmarks.inference [--host COMFYUI] [--model sd15 sdxl] [--latent N] [--width 320] [--dtype bfloat16]
                                   [--steps 4] [--rounds N] [--variants ...] [--compile] [--channels-last]
                                   [--times-only] [--before CHECKOUT] [--operators] [--out FILE.json] [--plot FILE.png]

Tuners run as the nodes of a ComfyUI checkout apply them (--host, else COMFYUI_PATH, else ~/comfy/ComfyUI).  A U-Net of
the true shape with random weights samples one picture with a positive and a negative prompt, which is batch 2: in half
precision on a GPU, in float32 on a CPU, or in --dtype; with --compile through ComfyUI's own TorchCompileModel.  Each
variant runs at once with the base, a step of one after a step of the other, so that what else the machine does falls on
both; the ratio is the median over all pairs of steps, with the interval in which it lies with a confidence of 95 %.  On
a CPU the edits of skips and the computing of controls, those of others too, are timed as well: `inside` is a step over
the same step less what they took, which no other work disturbs; and FLOPs and the most bytes that tensors hold at once,
weights included, are counted, where on a GPU the allocator tells them; --times-only leaves both out.  The first step
of a run, which encodes hints, is a column of its own.  Ctrl+C ends it with the rounds so far.

With --before, another checkout of this pack such as an earlier build, each variant runs beside the same one of that
build in place of the base: `edits` and `first edits` are the time in edits over that build's, after the first step and
in it.  With --operators nothing is timed: the operators that a step gains are counted by torch's profiler, views among
them, in a U-Net of the true structure but few channels, since neither width nor size changes them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import plots
from benchmarks.frame import finish, host_version, keep_memory, listen_to_ctrl_c, machine, parser, show
from benchmarks.inference_host import BEFORE, HostBackend, load_host
from benchmarks.inference_turns import in_turns
from benchmarks.step_counts import StepCost

TARGETS = {"SC-Tuner": 1.03, "CSC-Tuner": 1.04, "four CSC-Tuners": 1.12}
OPERATORS = {"SC-Tuner": 150, "CSC-Tuner": 180, "four CSC-Tuners": 200, "four CSC, two SC-Tuners": 200}  # at most
LATENTS = {"sd15": 64, "sdxl": 128}
BASE = "base"
_FORMS = {
    "step_ms": "{:.1f}", "first_step_ms": "{:.1f}", "ratio": "{:.3f}", "inside": "{:.3f}", "target": "{:.2f}",
    "flops": "{:.3f}", "weights_mb": "{:.0f}", "peak_mb": "{:.0f}", "inside_before": "{:.3f}", "edits": "{:.2f}",
    "first_edits": "{:.2f}", "operators": "{}", "at_most": "{}", "ratio_interval": "{0[0]:.3f} to {0[1]:.3f}",
}  # fmt: skip
Spans = list[tuple[float, float]]  # of each step: seconds, and those in edits


def main() -> None:
    """Measure, print, write, draw."""
    options = _options()
    keep_memory()
    listen_to_ctrl_c()
    report: dict[str, Any] = {"machine": machine(), "batch": 2, "compiled": options.compile, "models": {}}
    report["channels_last"] = options.channels_last
    host = load_host(options.host, options.dtype)
    for model in options.model:
        # a CPU is slow, and takes half of the model's own side, where a tuner's share is the larger
        latent = options.latent or LATENTS[model] // (1 if torch.cuda.is_available() else 2)
        only = options.variants and [BASE, *options.variants, *(BEFORE + name for name in options.variants)]
        backend = HostBackend(
            host, model, latent, options.width, options.compile, options.channels_last, only, options.before
        )
        report |= {"backend": backend.title, "device": backend.device, "dtype": backend.dtype}
        rows = _counted(backend) if options.operators else _timed(backend, options)
        report["models"][model] = {"latent": latent, "width": options.width, "rows": rows}
        _show(report, model)
    finish(report, options, plots.sampling)


def _timed(backend: HostBackend, options: argparse.Namespace) -> list[dict[str, Any]]:
    names = [name for name in backend.variants if not name.startswith(BEFORE)]
    others = {name: BEFORE + name if options.before else BASE for name in names[1:]}
    others = {name: other for name, other in others.items() if other in backend.variants}
    # a CPU times inside a step, for which few rounds do, and is slow
    rounds = options.rounds or (2 if backend.device.startswith("CPU") else 8)
    costs = {}
    for name in dict.fromkeys([BASE, *others, *others.values()]):
        costs[name] = (0, 0) if options.times_only else _cost(backend, name)
        print(f"ready: {name}", file=sys.stderr)
    runs: dict[str, list[list[Spans]]] = {name: [] for name in others}
    try:
        for done in range(rounds):
            for name, other in others.items():
                runs[name].append(in_turns(backend, (other, name), options.steps))
            print(f"round {done + 1} of {rounds}", file=sys.stderr)
    except KeyboardInterrupt:
        if not all(runs.values()):
            raise
    base = [[run[0], run[0]] for each in runs.values() for run in each]
    flops, weights = costs[BASE][0], sum(each.nbytes for each in backend.weights(BASE))
    return [
        {
            "variant": name,
            **_times(runs.get(name) or base),
            "target": TARGETS.get(name),
            "weights_mb": round((sum(each.nbytes for each in backend.weights(name)) - weights) / 1e6, 1),
            "flops": round(costs[name][0] / flops, 4) if flops else None,
            "peak_mb": round(costs[name][1] / 1e6, 1) or None,
        }
        for name in ([] if options.before else [BASE]) + list(others)
    ]


def _times(runs: list[list[Spans]]) -> dict[str, Any]:
    """Of runs of another variant and this one, a step of one after a step of the other."""
    first = [(run[0][0], run[1][0]) for run in runs]
    later = [pair for run in runs for pair in zip(run[0][1:], run[1][1:], strict=True)]
    ratios = [own[0] / other[0] for other, own in later]
    times = {
        "step_ms": round(1000 * median(own[0] for _, own in later), 2),
        "first_step_ms": round(1000 * median(own[0] for _, own in first), 2),
        "pairs": len(later),
        "ratio": round(median(ratios), 4),
        "ratio_interval": [round(ratio, 4) for ratio in _interval(ratios)],
        "inside": _median(whole / (whole - edits) for _, (whole, edits) in later if edits),
    }
    if any(other[1] for other, _ in later):  # that of another build
        times["inside_before"] = _median(whole / (whole - edits) for (whole, edits), _ in later)
        times["edits"] = _median(own[1] / other[1] for other, own in later)
        times["first_edits"] = _median(own[1] / other[1] for other, own in first)
    return times


def _median(values: Iterable[float]) -> float | None:
    values = list(values)
    return round(median(values), 4) if values else None


def _interval(values: list[float]) -> tuple[float, float]:
    """Where the median lies with a confidence of 95 %, from the order of the values alone."""
    ordered, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    return ordered[max(0, math.floor(n / 2 - reach))], ordered[min(n - 1, math.ceil(n / 2 + reach) - 1)]


def _cost(backend: HostBackend, name: str) -> tuple[int, int]:
    """FLOPs of a step, 0 where they are not counted, and the most bytes held; loads and warms up."""
    peak = backend.peak(name)
    if peak is not None:
        return 0, peak
    flops: list[int] = []
    with StepCost(backend.weights(name)) as cost:
        backend.run(name, 2, lambda: flops.append(cost.flops))
    return flops[1] - flops[0], cost.peak


def _counted(backend: HostBackend) -> list[dict[str, Any]]:
    """The base's operators, and those that a step gains by each variant."""
    counts = {
        name: step_operators(lambda steps, name=name: backend.run(name, steps, lambda: None))
        for name in backend.variants
    }
    base = counts[BASE]
    return [
        {"variant": name, "operators": count - base * (name != BASE), "at_most": OPERATORS.get(name)}
        for name, count in counts.items()
    ]


def step_operators(run: Callable[[int], Any]) -> int:
    """Operators of one step after the first, which makes what the others use; `run` samples that many steps."""
    run(1)  # loads
    return _operators(lambda: run(3)) - _operators(lambda: run(2))


def _operators(run: Callable[[], Any]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    return sum(each.count for each in seen.key_averages() if each.key.startswith("aten::"))


def _show(report: dict[str, Any], model: str) -> None:
    told = report["models"][model]
    title = f"{model}, latent {told['latent']}, width {told['width']}, batch {report['batch']}; "
    title += f"{report['backend']}, {report['device']}, {report['dtype']}, {report['compiled'] or 'eager'}"
    keys = [key for key in _FORMS if any(row.get(key) is not None for row in told["rows"])]
    lines = [
        [
            row["variant"],
            *("" if row.get(key) is None else _FORMS[key].format(row[key]) for key in keys),
        ]
        for row in told["rows"]
    ]
    show(title, ["variant", *(key.replace("_", " ") for key in keys)], lines)


def _options() -> argparse.Namespace:
    made = parser(__doc__, plot=True, host=True)
    made.add_argument("--model", nargs="+", choices=LATENTS, default=["sd15"])
    made.add_argument("--latent", type=int, help="side of the latent, by default the model's own, on a CPU half of it")
    made.add_argument("--width", type=int, default=320, help="channels of the U-Net's first level, truly 320")
    made.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="that of weights and computation")
    made.add_argument("--steps", type=int, default=4, help="sampling steps in each run")
    made.add_argument("--rounds", type=int, help="runs of each variant, 8 by default, on a CPU 2")
    made.add_argument("--variants", nargs="+", help="names of those to measure, all by default")
    made.add_argument("--times-only", action="store_true", help="count neither FLOPs nor bytes")
    made.add_argument("--compile", nargs="?", const="inductor", help="compile the U-Net, with this backend")
    made.add_argument("--channels-last", action="store_true", help="the U-Net's weights in that order")
    made.add_argument("--before", type=Path, help="another checkout of this pack, to run beside it")
    made.add_argument("--operators", action="store_true", help="count operators, time nothing")
    options = made.parse_args()
    if options.steps < 2:
        made.error(f"--steps: expected at least 2, since the first is told apart, found {options.steps}; raise it")
    if options.operators:
        options.latent, options.width, options.dtype, options.plot = 16, 32, "float32", None
    host_version(options.host)
    return options


if __name__ == "__main__":
    main()
