"""What benchmarks/inference.py runs on, and its clock: CUDA events on a GPU, the processor's elsewhere."""

from __future__ import annotations

import time

import torch


def device_name(gpu: bool) -> str:
    """The GPU's name, or how many threads the CPU computes with."""
    threads = torch.get_num_threads()
    return torch.cuda.get_device_name() if gpu else f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def mark(gpu: bool):
    """A moment: in the order of the GPU's work, without waiting for it."""
    if not gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(begin, end) -> float:
    """Seconds between two marks."""
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000
