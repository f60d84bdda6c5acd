"""The clock of benchmarks/inference.py: CUDA events on a GPU, the processor's elsewhere."""

from __future__ import annotations

import time


def mark(gpu: bool):
    """A moment: in the order of the GPU's work, without waiting for it."""
    if not gpu:
        return time.perf_counter()
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(begin, end) -> float:
    """Seconds between two marks."""
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000
