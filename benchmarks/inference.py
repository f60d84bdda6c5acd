"""What tuners cost while sampling, beside ControlNet, LLLite and T2I-Adapter: milliseconds a step, and memory.

    python -m benchmarks.inference [--host COMFYUI] [--model sd15 sdxl] [--latent N] [--width 320] [--dtype bfloat16]
                                   [--steps 4] [--rounds N] [--variants ...] [--compile] [--channels-last]
                                   [--times-only] [--out FILE.json] [--plot FILE.png]

Tuners run as the nodes of a ComfyUI checkout apply them (--host, else COMFYUI_PATH, else ~/comfy/ComfyUI).  A U-Net of
the true shape with random weights samples one picture with a positive and a negative prompt, which is batch 2: in half
precision on a GPU, in float32 on a CPU, or in --dtype; with --compile through ComfyUI's own TorchCompileModel.  Each
variant runs at once with the base, a step of one after a step of the other, so that what else the machine does falls on
both; the ratio is the median over all pairs of steps, with the interval in which it lies with a confidence of 95 %.  On
a CPU the edits of skips and the computing of controls, those of others too, are timed as well: `inside` is a step over
the same step less what they took, which no other work disturbs; and FLOPs and the most bytes that tensors hold at once,
weights included, are counted, where on a GPU the allocator tells them; --times-only leaves both out.  The first step
of a run, which encodes hints, is a column of its own.  Ctrl+C ends it with the rounds so far.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from typing import Any

import torch

from benchmarks import plots
from benchmarks.frame import finish, host_version, keep_memory, listen_to_ctrl_c, machine, parser, show
from benchmarks.inference_host import HostBackend, load_host
from benchmarks.inference_turns import in_turns
from benchmarks.step_counts import StepCost

TARGETS = {"SC-Tuner": 1.03, "CSC-Tuner": 1.04, "four CSC-Tuners": 1.12}
LATENTS = {"sd15": 64, "sdxl": 128}
BASE = "base"


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
        only = None if options.variants is None else [BASE, *options.variants]
        backend = HostBackend(host, model, latent, options.width, options.compile, options.channels_last, only)
        report |= {"backend": backend.title, "device": backend.device, "dtype": backend.dtype}
        report["models"][model] = {"latent": latent, "width": options.width, "rows": _rows(backend, options)}
        _show(report, model)
    finish(report, options, plots.sampling)


def _rows(backend: HostBackend, options: argparse.Namespace) -> list[dict[str, Any]]:
    names = backend.variants
    # a CPU times inside a step, for which few rounds do, and is slow
    rounds = options.rounds or (2 if backend.device.startswith("CPU") else 8)
    costs = {}
    for name in names:
        costs[name] = (0, 0) if options.times_only else _cost(backend, name)
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
            "peak_mb": round(costs[name][1] / 1e6, 1) or None,
        }
        for name in names
    ]


def _cost(backend: HostBackend, name: str) -> tuple[int, int]:
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


def _show(report: dict[str, Any], model: str) -> None:
    told = report["models"][model]
    title = f"{model}, latent {told['latent']}, width {told['width']}, batch {report['batch']}; "
    title += f"{report['backend']}, {report['device']}, {report['dtype']}, {report['compiled'] or 'eager'}"
    forms = {
        "step_ms": "{:.1f}", "first_step_ms": "{:.1f}", "ratio": "{:.3f}", "inside": "{:.3f}", "target": "{:.2f}",
        "flops": "{:.3f}", "weights_mb": "{:.0f}", "peak_mb": "{:.0f}",
    }  # fmt: skip
    lines = [
        [
            row["variant"],
            *("" if row[key] is None else form.format(row[key]) for key, form in forms.items()),
            "{:.3f} to {:.3f}".format(*row["ratio_interval"]),
        ]
        for row in told["rows"]
    ]
    show(title, ["variant", *(key.replace("_", " ") for key in forms), "ratio, 95 %"], lines)


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
    options = made.parse_args()
    if options.steps < 2:
        made.error(f"--steps: expected at least 2, since the first is told apart, found {options.steps}; raise it")
    host_version(options.host)
    return options


if __name__ == "__main__":
    main()
