"""Numbers that are on their way from the device, so that nobody waits for it."""

from __future__ import annotations

import torch
from torch import Tensor


class Arriving:
    """A copy on the CPU of numbers that the device will have come to; made without waiting for it."""

    def __init__(self, numbers: Tensor) -> None:
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
