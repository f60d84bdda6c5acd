"""What tuners cost while sampling, beside ControlNet, LLLite and T2I-Adapter: milliseconds a step, and memory.

    python -m benchmarks.inference [--host COMFYUI] [--model sd15 sdxl] [--latent N] [--width 320] [--dtype bfloat16]
                                   [--steps 4] [--rounds N] [--variants ...] [--compile [BACKEND]] [--channels-last]
                                   [--operators | --times-only] [--out FILE.json] [--plot FILE.png]

Tuners run as the nodes of a ComfyUI checkout apply them (--host, else COMFYUI_PATH, else ~/comfy/ComfyUI).  A U-Net of
the true shape (--width channels in its first level) with random weights samples one picture with a positive and a
negative prompt, which is batch 2: in half precision on a GPU, in float32 on a CPU, or in --dtype; with --compile
through ComfyUI's own TorchCompileModel.  --latent is by default the model's own, on a CPU half of it.  Each variant
runs at once with the base, a step of one after a step of the other, so that what else the machine does falls on both,
--rounds times (8, on a CPU 2); the ratio is the median over all pairs of steps, with the interval in which it lies with
a confidence of 95 %.  On a CPU the edits of skips and the computing of controls, those of others too, are timed as
well: `inside` is a step over the same step less what they took, which no other work disturbs; and FLOPs and the most
bytes that tensors hold at once, weights included, are counted, where on a GPU the allocator tells them.  The first step
of a run, which encodes hints, is a column of its own.  --times-only leaves the counts out.  Ctrl+C ends it with the
rounds so far.

With --operators nothing is timed: the operators that a step gains are counted by torch's profiler, views among
them, in a U-Net of the true structure but few channels, since neither width nor size changes them.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import frame, plots
from benchmarks.frame import keep_memory, mark, seconds, show, stoppable
from benchmarks.inference_host import HostBackend, load_host
from benchmarks.models import MODELS
from benchmarks.step_counts import StepCost

TARGETS = {"SC-Tuner": 1.03, "CSC-Tuner": 1.04, "four CSC-Tuners": 1.12}
OPERATORS = {"SC-Tuner": 150, "CSC-Tuner": 180, "four CSC-Tuners": 200, "four CSC, two SC-Tuners": 200}  # at most
BASE = "base"
Spans = list[tuple[float, float]]  # of each step: seconds, and those in edits


def main() -> None:
    """Measure, print, write, draw."""
    options = frame.options(
        __doc__, host=frame.HOST, model=frame.some_of(("sd15", "sdxl"), ["sd15"]), latent=int, width=320,
        dtype=frame.one_of(("float32", "bfloat16", "float16")), steps=4, rounds=int, variants={"nargs": "+"},
        compile=frame.COMPILE, channels_last=False, operators=False, times_only=False, plot=Path,
    )  # fmt: skip
    if options.steps < 2:
        raise SystemExit(f"--steps: expected at least 2, for the first is told apart, found {options.steps}; raise it")
    if options.operators:
        options.latent, options.width, options.dtype, options.plot = 16, 32, "float32", None
    keep_memory()
    report: dict[str, Any] = {"machine": frame.machine(), "batch": 2, "compiled": options.compile, "models": {}}
    report["channels_last"] = options.channels_last
    host = load_host(options.host, options.dtype)
    for model in options.model:
        # a CPU is slow, and takes half of the model's own side, where a tuner's share is the larger
        latent = options.latent or MODELS[model].side // (8 if torch.cuda.is_available() else 16)
        only = options.variants and [BASE, *options.variants]
        backend = HostBackend(host, model, latent, options.width, options.compile, options.channels_last, only)
        report |= {"backend": backend.title, "device": backend.device, "dtype": backend.dtype}
        rows = _counted(backend) if options.operators else _timed(backend, options)
        report["models"][model] = {"latent": latent, "width": options.width, "rows": rows}
        form = f"{backend.title}, {backend.device}, {backend.dtype}, {options.compile or 'eager'}"
        show(f"{model}, latent {latent}, width {options.width}, batch 2; {form}", rows)
    frame.finish(report, options, plots.sampling)


def _timed(backend: HostBackend, options: argparse.Namespace) -> list[dict[str, Any]]:
    names = [name for name in backend.variants if name != BASE]
    # a CPU times inside a step, for which few rounds do, and is slow
    rounds = options.rounds or (2 if backend.device.startswith("CPU") else 8)
    costs = {name: (0, 0) if options.times_only else _cost(backend, name) for name in backend.variants}
    runs: dict[str, list[list[Spans]]] = {name: [] for name in names}
    with stoppable():
        for done in range(rounds):
            for name in names:
                runs[name].append(in_turns(backend, (BASE, name), options.steps))
            print(f"round {done + 1} of {rounds}", file=sys.stderr)
    if not all(runs.values()):
        raise SystemExit("expected a whole round, and was stopped in the first; give it more time")
    base = [[run[0], run[0]] for each in runs.values() for run in each]
    flops = costs[BASE][0]
    return [
        {
            "variant": name,
            **_times(runs.get(name) or base),
            "target": TARGETS.get(name),
            "flops": round(costs[name][0] / flops, 4) if flops else None,
            "peak_mb": round(costs[name][1] / 1e6, 1) or None,
        }
        for name in backend.variants
    ]


def _times(runs: list[list[Spans]]) -> dict[str, Any]:
    """Of runs of the base and a variant, a step of one after a step of the other."""
    first = [(run[0][0], run[1][0]) for run in runs]
    later = [pair for run in runs for pair in zip(run[0][1:], run[1][1:], strict=True)]
    ratios = [own[0] / other[0] for other, own in later]
    inside = [whole / (whole - edits) for _, (whole, edits) in later if edits]
    return {
        "step_ms": round(1000 * median(own[0] for _, own in later), 2),
        "first_step_ms": round(1000 * median(own[0] for _, own in first), 2),
        "pairs": len(later),
        "ratio": round(median(ratios), 4),
        "ratio_interval": [round(ratio, 4) for ratio in _interval(ratios)],
        "inside": round(median(inside), 4) if inside else None,
    }


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


def in_turns(backend: HostBackend, variants: Sequence[str], steps: int) -> list[Spans]:
    """Sample all variants at once, one step of each in turn, so that whatever disturbs the machine falls on all.

    Raises what a run raises, and KeyboardInterrupt; the other runs end with their step.
    """
    turns = [threading.Semaphore(0) for _ in variants]
    errors: list[BaseException] = []

    def run(i: int) -> list[tuple[Any, Any, float]]:
        spans = []

        def wait() -> tuple[Any, float]:
            turns[i].acquire()
            if errors:
                raise errors[0]
            return mark(), backend.edit_seconds

        def pass_on() -> None:
            turns[(i + 1) % len(turns)].release()

        def after_step() -> None:
            nonlocal begun, edited
            spans.append((begun, mark(), backend.edit_seconds - edited))
            pass_on()
            begun, edited = wait()

        try:
            begun, edited = wait()
            backend.run(variants[i], steps, after_step)
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            pass_on()
        return spans

    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(run, i) for i in range(len(variants))]
        turns[0].release()
        try:
            found = [each.result() for each in runs]
        except BaseException as error:
            errors.append(error)
            raise
    return [[(seconds(a, b), edits) for a, b, edits in spans] for spans in found]


if __name__ == "__main__":
    main()
