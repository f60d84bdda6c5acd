"""What training SC-Tuners and CSC-Tuners costs beside LoRA and its kin, ControlNets, T2I-Adapter and full fine-tuning.

    python -m benchmarks.training [--models sd15 sd21 sdxl] [--batches 1 4] [--methods ...] [--savings ...]
                                  [--count-only | --measure-only] [--steps 10] [--compile [BACKEND]]
                                  [--channels-last] [--tiny] [--out FILE.json] [--plot FILE.png]

Needs requirements/test.txt and peft.  Every method trains the same U-Net, with random weights, in bfloat16, at the
size at which that model is used; what is trained is kept in float32.  Each is taken without and with each saving, which
one column names, so that rows with the same savings can be compared.  Counted, on tensors that hold no numbers:

    kept      bytes that autograd keeps for the backward pass, weights excluded
    peak      the most that all tensors together ever hold in a step: weights, gradients, AdamW's state, activations
    FLOPs     of matrix products, convolutions and attention in one step at the first batch size, over a forward's
    launches  operators of that step that compute something: views are left out, each other is at least one kernel

With a GPU each is also run, by the trainer's own update with copies to the GPU, clipping, AdamW and a running mean:
steps per second (median of CUDA events of --steps updates, after three that are not timed) and the peak that the
allocator saw; with compiled blocks, by inductor or by CUDA graphs alone (cudagraphs), and with weights in channels-last
order where that is asked for.  Ctrl+C ends it with the rows so far.  --tiny shrinks the models to a tenth and measures
on any device, which tries the script and tells nothing.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import frame, plots
from benchmarks.frame import COMPILE, MIB, device_name, finish, machine, mark, seconds, show, some_of, stoppable
from benchmarks.methods import EACH, METHODS, Method, Savings
from benchmarks.models import MODELS, Model
from benchmarks.step_counts import SavedBytes, StepCost, fused_attention
from scedit_core.fitting.base import TextStates
from scedit_core.fitting.batches import Batch
from scedit_core.fitting.loop import update
from scedit_core.fitting.objective import Objective
from scedit_core.fitting.optimizing import build_ema, build_optimizer, build_schedule
from scedit_core.fitting.processes import OneProcess
from scedit_core.fitting.run import Run
from scedit_core.fitting.settings import LoopSettings, ObjectiveSettings
from training.memory.compiling import compile_blocks


def main() -> None:
    """Count, measure where there is a GPU, print, write, draw."""
    options = frame.options(
        __doc__, models=some_of(MODELS), methods=some_of(METHODS), savings=some_of(map(str, EACH)), batches=[1, 4],
        compile=COMPILE, channels_last=False, count_only=False, measure_only=False, tiny=False, steps=10, plot=Path,
    )  # fmt: skip
    measured = (torch.cuda.is_available() or options.tiny) and not options.count_only
    report: dict[str, Any] = {"machine": machine("diffusers", "peft"), "dtype": "bfloat16, float32 where trained"}
    report |= {"counted": not options.measure_only, "measured": measured, "compiled": options.compile, "rows": []}
    report["channels_last"] = options.channels_last
    began = time.perf_counter()
    with stoppable():
        for key, name in itertools.product(options.models, options.methods):
            model = MODELS[key].tiny() if options.tiny else MODELS[key]
            for savings in METHODS[name][1]:
                if str(savings) in options.savings:
                    report["rows"].append(_row(key, model, name, savings, measured, options))
                    print(f"{time.process_time():5.0f} s: {model.title}, {name}, {savings}", file=sys.stderr)
    report["seconds"] = round(time.perf_counter() - began, 1)
    for key in options.models:
        rows = [row for row in report["rows"] if row["model"] == key]
        show(f"{MODELS[key].title}, {device_name() if measured else 'counted'}", [_shown(row) for row in rows])
    finish(report, options, plots.training)


def _row(key: str, model: Model, name: str, savings: Savings, measured: bool, options) -> dict[str, Any]:
    row = {"model": key, "resolution": model.side, "method": name, "savings": str(savings)}
    try:
        if not options.measure_only:
            row |= _count(model, name, savings, options.batches)
        if measured:
            row |= _measure(model, name, savings, options)
    except Exception as error:  # one method that fails must not take the others along
        row["failed"] = f"{type(error).__name__}: {error}"[:300]
    return row


def _build(model: Model, name: str, savings: Savings, device: torch.device) -> Method:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return METHODS[name][0](model.build(), savings)
    finally:
        torch.set_default_dtype(torch.float32)


def _count(model: Model, name: str, savings: Savings, batches: list[int]) -> dict[str, Any]:
    """What one step costs, on tensors without storage."""
    device = torch.device("meta")
    method = _build(model, name, savings, device)
    learning = method.parameters()
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in learning), "kept_bytes": {}, "peak_bytes": {}}
    kept = SavedBytes(method.modules())
    adamw = [torch.empty_like(p) for p in (*learning, *learning)]
    for batch in batches:
        with fused_attention(), StepCost([*method.weights(), *adamw]) as cost:
            inputs, hint = model.inputs(batch, device)
            target = torch.empty(inputs["sample"].shape, device=device)
            with kept.counting():
                loss = F.mse_loss(method.forward(inputs, hint).float(), target)
            row["kept_bytes"][str(batch)] = kept.now
            forward = cost.flops
            loss.backward()
        if batch == batches[0]:
            row |= {"forward_flops": forward // batch, "step_flops": cost.flops // batch, "launches": cost.launches}
        row["peak_bytes"][str(batch)] = cost.peak
        method.owner.zero_grad()
    return row


def _measure(model: Model, name: str, savings: Savings, options: argparse.Namespace) -> dict[str, Any]:
    """Steps per second and peak of the CUDA allocator at each batch; None from where memory runs out."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"steps_per_second": {}, "measured_peak_bytes": {}}
    for batch in sorted(options.batches):
        try:
            each, peak = _timed(model, name, savings, batch, device, options)
        except torch.OutOfMemoryError:
            each, peak = None, None
        result["steps_per_second"][str(batch)] = each and 1 / each
        result["measured_peak_bytes"][str(batch)] = peak
        gc.collect()
        torch.cuda.empty_cache()
        if peak is None:
            break
    return result


def _timed(
    model: Model, name: str, savings: Savings, batch: int, device: torch.device, options: argparse.Namespace
) -> tuple[float, int]:
    """Median seconds of an update, and the allocator's peak."""
    torch.manual_seed(0)
    gpu = device.type == "cuda"
    method = _build(model, name, savings, device)
    if options.channels_last:
        method.unet.to(memory_format=torch.channels_last)
    if options.compile:
        compile_blocks(method.unet, options.compile)
    for part in method.resting:
        part.to("cpu")
    run = _run(model, method, batch, device)
    for _ in range(3 if gpu else 1):
        update(run)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    marks = [mark()]
    for _ in range(options.steps):
        update(run)
        marks.append(mark())
    times = [seconds(a, b) for a, b in itertools.pairwise(marks)]
    return statistics.median(times), torch.cuda.max_memory_allocated() if gpu else 0


def _run(model: Model, method: Method, batch: int, device: torch.device) -> Run:
    """What the trainer's `update` asks of a run, for any method, with a running mean of what is trained."""
    inputs, hint = model.inputs(batch, torch.device("cpu"))
    told = inputs.get("added_cond_kwargs", {})
    data = Batch(
        latents=inputs["sample"].float(), text=TextStates(inputs["encoder_hidden_states"], told.get("text_embeds")),
        sizes=told.get("time_ids"), hints=hint.float(), masks=None, weights=torch.ones(batch),
    )  # fmt: skip

    def step(noisy, timesteps, hints, text, sizes):
        text = text.to(device, torch.bfloat16)
        named = {"sample": noisy.bfloat16(), "timestep": timesteps, "encoder_hidden_states": text.states}
        if sizes is not None:
            named["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": sizes.to(device)}
        return method.forward(named, hints.bfloat16())

    loop = LoopSettings(batch=batch, steps=1000, warmup=0, learning_rate=1e-5, ema=0.999)
    optimizer = build_optimizer(method.parameters(), loop)
    return Run(
        config=SimpleNamespace(loop=loop), accelerator=OneProcess(device), folder=None, events=None, base=None,
        data=SimpleNamespace(batch=lambda step, size, part: data), step_module=step, tuner=method.owner,
        objective=Objective(torch.linspace(0.999, 0.005, 1000), "epsilon", ObjectiveSettings()), optimizer=optimizer,
        schedule=build_schedule(optimizer, loop), scaler=torch.amp.GradScaler(device.type, enabled=False),
        ema=build_ema(method.parameters(), loop),
    )  # fmt: skip


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the table has it."""
    told = {key: row.get(key) for key in ("method", "savings", "resolution", "launches", "failed")}
    if "launches" in row:
        told |= {"trained M": row["parameters"] / 1e6, "step/fwd FLOPs": row["step_flops"] / row["forward_flops"]}
    for what in ("kept_bytes", "peak_bytes", "measured_peak_bytes"):
        name = what.replace("bytes", "MiB")
        told |= {f"{name}, {batch}": value and round(value / MIB) for batch, value in row.get(what, {}).items()}
    for batch, value in row.get("steps_per_second", {}).items():
        told[f"steps/s, {batch}"] = value or "out of memory"
    return told


if __name__ == "__main__":
    main()
