"""What the machine can do: the dtype to compute in, copies that nobody waits for, and the memory in use."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def frozen_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the frozen base; "auto" is bfloat16 where the device computes in it, else float32."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = device.type == "cpu" and "avx512_bf16" in _cpu_flags()
    return torch.bfloat16 if fast else torch.float32


def moved(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """`tensor` on `device`, in `dtype` where it is given; to a GPU from pinned memory, so that nobody waits for the
    copy."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device, dtype)
    return tensor.to(dtype).pin_memory().to(device, non_blocking=True)


class Arriving:
    """A copy on the CPU of numbers that the device will have come to; made without waiting for it."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self._numbers, self._arrived = numbers, None
        if numbers.device.type == "cuda":
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[float, ...]:
        """The numbers; waits for the device to come there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return tuple(self._numbers.tolist())


def peak_memory_mib(device: torch.device) -> float:
    """The most memory this process has held so far: of the GPU where it trains on one, else of the computer."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
