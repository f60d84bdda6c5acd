"""What training SC-Tuners and CSC-Tuners costs beside LoRA, ControlNet, T2I-Adapter and full fine-tuning.

    python benchmarks/training.py [--models sd15 sd21 sdxl] [--batches 1 4 16] [--methods ...] [--count-only]
                                  [--measure-only] [--tiny] [--out FILE.json] [--plot FILE.png]

Needs requirements/train.txt and peft.  Every method trains the same U-Net, with random weights, in bfloat16, at
the size at which that model is used.  Without a GPU it is counted, on tensors that hold no numbers:

    saved    bytes that autograd keeps for the backward pass, weights excluded
    FLOPs    of matrix products, convolutions and attention in one step, forward and backward, over those of the forward
    peak     the most that all tensors together ever hold in a step: weights, gradients, AdamW's state, activations

FLOPs and peak are those of the first batch size.
With a GPU each is also run: steps per second (median of CUDA events) and the peak that the allocator saw.
Prints a table, writes JSON with the machine and the versions, and draws one plot; Ctrl+C ends it with the rows so far.
--tiny shrinks the models to a tenth and measures on any device, which tries the script and tells nothing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, where this file hides the package

import diffusers
import peft
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from benchmarks.inference_clock import device_name, mark, seconds
from benchmarks.step_counts import SavedBytes, StepCost, fused_attention
from benchmarks.training_methods import METHODS, Method, Options
from benchmarks.training_models import MODELS, Model
from benchmarks.training_plot import draw

MIB = 2**20
# (model, method, options, over, at most): saved bytes at batch 1 over those of another method without options
TARGETS = [
    ("sd15", "SC-Tuner", "plain", "LoRA r64", 0.65),
    ("sdxl", "SC-Tuner", "plain", "LoRA r64", 0.55),
    ("sd15", "SC-Tuner", "frozen layers", "LoRA r64", 0.55),
    ("sdxl", "SC-Tuner", "frozen layers", "LoRA r64", 0.50),
    ("sd15", "CSC-Tuner", "plain", "ControlNet", 0.70),
    ("sd21", "CSC-Tuner", "plain", "ControlNet", 0.70),
    ("sdxl", "CSC-Tuner", "plain", "ControlNet", 0.70),
]


def main() -> None:
    """Count, measure where there is a GPU, print, write, draw."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 175)
    diffusers.utils.logging.set_verbosity_error()  # it warns at every cast to bfloat16
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts in the background
    gpu = (torch.cuda.is_available() or options.tiny) and not options.count_only
    began, rows = time.perf_counter(), []
    try:
        for key in options.models:
            model = MODELS[key].tiny() if options.tiny else MODELS[key]
            for name in options.methods:
                for which in METHODS[name][1]:
                    row: dict[str, Any] = {"model": key, "resolution": model.side}
                    row |= {"method": name, "options": str(which)}
                    if not options.measure_only:
                        row |= _count(model, name, which, options.batches)
                    if gpu:
                        row |= _measure(model, name, which, options.batches, options.steps)
                    rows.append(row)
                    print(f"{time.process_time():5.0f} s: {model.title}, {name}, {which}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; here are the rows so far", file=sys.stderr)
    report = {
        "machine": _machine(gpu),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "peft": peft.__version__,
        },
        "dtype": "bfloat16",
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "targets": _targets(rows),
        "rows": rows,
    }
    for key in options.models:
        console.print(_table(key, [row for row in rows if row["model"] == key], options.batches, gpu))
    for target in report["targets"]:
        verdict = "reached" if target["ratio"] <= target["at_most"] else "missed"
        console.print(
            f"{MODELS[target['model']].title}: saved by {target['method']} ({target['options']}) over {target['over']} "
            f"{target['ratio']:.3f}, target at most {target['at_most']:.2f}, {verdict}",
            highlight=False,
        )
    console.print(
        f"{report['machine']}, torch {torch.__version__}, {report['cpu_seconds']} s of one core", highlight=False
    )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        draw(report, options.plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--count-only", action="store_true", help="do not use the GPU")
    parser.add_argument("--measure-only", action="store_true", help="do not count")
    parser.add_argument("--tiny", action="store_true", help="models of a tenth of the width")
    parser.add_argument("--steps", type=int, default=10, help="steps to time on a GPU, after three that are not")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="PNG file to draw")
    return parser.parse_args()


def _build(model: Model, name: str, which: Options, device: torch.device) -> Method:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return METHODS[name][0](model.build(), which)
    finally:
        torch.set_default_dtype(torch.float32)


def _inputs(model: Model, batch: int, device: torch.device) -> tuple[dict[str, Any], torch.Tensor]:
    hint = torch.rand(batch, 3, model.side, model.side, device=device, dtype=torch.bfloat16)
    return model.inputs(batch, device), hint


def _count(model: Model, name: str, which: Options, batches: list[int]) -> dict[str, Any]:
    """What one step costs, on tensors without storage."""
    device = torch.device("meta")
    method = _build(model, name, which, device)
    learning = method.parameters()
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in learning), "saved_bytes": {}}
    saved = SavedBytes(method.modules())
    weights = [t for module in method.modules() for t in (*module.parameters(), *module.buffers())]
    adamw = [torch.empty_like(p) for p in (*learning, *learning)]
    for batch in batches:
        with fused_attention(), StepCost([*weights, *adamw]) as cost:
            inputs, hint = _inputs(model, batch, device)
            target = torch.empty(inputs["sample"].shape, device=device)
            with saved.counting():
                loss = F.mse_loss(method.forward(inputs, hint).float(), target)
            row["saved_bytes"][str(batch)] = saved.total()
            if batch != batches[0]:
                continue  # one backward pass is enough: FLOPs are those of one picture, and time is short
            row["forward_flops"] = cost.flops // batch
            loss.backward()
        row |= {"step_flops": cost.flops // batch, "peak_bytes": cost.peak}
        for p in learning:
            p.grad = None
    return row


def _measure(model: Model, name: str, which: Options, batches: list[int], steps: int) -> dict[str, Any]:
    """Steps per second and peak of the CUDA allocator at each batch; None from where memory runs out."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"steps_per_second": {}, "measured_peak_bytes": {}}
    for batch in sorted(batches):
        try:
            seconds, peak = _timed(model, name, which, batch, device, steps)
        except torch.cuda.OutOfMemoryError:
            seconds, peak = None, None
        result["steps_per_second"][str(batch)] = seconds and 1 / seconds
        result["measured_peak_bytes"][str(batch)] = peak
        gc.collect()
        torch.cuda.empty_cache()
        if peak is None:
            break
    return result


def _timed(model: Model, name: str, which: Options, batch: int, device, steps: int) -> tuple[float, int]:
    torch.manual_seed(0)
    gpu = device.type == "cuda"
    method = _build(model, name, which, device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-5, fused=True)
    inputs, hint = _inputs(model, batch, device)
    target = torch.randn(inputs["sample"].shape, device=device)
    marks = []
    for step in range(-3 if gpu else -1, steps):
        if step == 0:
            torch.cuda.reset_peak_memory_stats() if gpu else None
            marks.append(mark(gpu))
        loss = F.mse_loss(method.forward(inputs, hint).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= 0:
            marks.append(mark(gpu))
    if not torch.isfinite(loss):
        raise RuntimeError(f"{name}: expected a finite loss, found {loss.item()}; check the method")
    times = [seconds(a, b) for a, b in itertools.pairwise(marks)]
    return statistics.median(times), torch.cuda.max_memory_allocated() if gpu else 0


def _targets(rows: list[dict]) -> list[dict]:
    found = {
        (row["model"], row["method"], row["options"]): row["saved_bytes"].get("1")
        for row in rows
        if "saved_bytes" in row
    }
    targets = []
    for model, method, options, over, at_most in TARGETS:
        one, other = found.get((model, method, options)), found.get((model, over, "plain"))
        if one and other:
            told = {"model": model, "method": method, "options": options, "over": over, "at_most": at_most}
            targets.append(told | {"ratio": round(one / other, 4)})
    return targets


def _table(key: str, rows: list[dict], batches: list[int], gpu: bool) -> Table:
    model = MODELS[key]
    table = Table(title=f"{model.title} at {model.side}, bfloat16")
    columns, counted = ["method", "options"], all("saved_bytes" in row for row in rows)
    if counted:
        columns += ["trained M", "step/fwd FLOPs"]
        columns += [f"saved MiB, {b}" for b in batches] + ["of LoRA r64", f"peak MiB, {batches[0]}"]
    if gpu:
        columns += [f"{what}, {b}" for b in batches for what in ("steps/s", "GPU MiB")]
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < 2 else "right")
    lora = next((row for row in rows if row["method"] == "LoRA r64" and row["options"] == "plain"), None)
    first = str(batches[0])
    before = None
    for row in rows:
        cells = [row["method"] if row["method"] != before else "", row["options"]]
        if counted:
            cells += [f"{row['parameters'] / 1e6:.2f}", f"{row['step_flops'] / row['forward_flops']:.2f}"]
            cells += [f"{row['saved_bytes'][str(b)] / MIB:.0f}" for b in batches]
            cells += [f"{row['saved_bytes'][first] / lora['saved_bytes'][first]:.2f}" if lora else ""]
            cells += [f"{row['peak_bytes'] / MIB:.0f}"]
        for b in batches if gpu else ():
            speed, peak = row["steps_per_second"].get(str(b)), row["measured_peak_bytes"].get(str(b))
            cells += [f"{speed:.2f}", f"{peak / MIB:.0f}"] if speed else ["out of memory", ""]
        table.add_row(*cells, end_section=False)
        before = row["method"]
    return table


def _machine(gpu: bool) -> str:
    if gpu:
        return device_name(torch.cuda.is_available())
    return f"counted on meta tensors, {platform.machine()}, no GPU"


if __name__ == "__main__":
    main()
