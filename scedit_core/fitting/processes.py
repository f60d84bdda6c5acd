"""The processes that train together, as the loop sees them."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import torch
from torch import Tensor


class Processes(Protocol):
    """What the loop asks of accelerate's `Accelerator`; `OneProcess` answers where there is one process alone."""

    process_index: int
    num_processes: int
    is_main_process: bool
    device: torch.device

    def no_sync(self, module: torch.nn.Module) -> contextlib.AbstractContextManager:
        """While open, gradients are not summed over processes."""

    def backward(self, loss: Tensor) -> None:
        """The backward pass of one of several accumulated losses, which is divided by their number."""

    def reduce(self, value: Tensor, how: str) -> Tensor:
        """Sum or mean over processes."""

    def wait_for_everyone(self) -> None:
        """Return when all processes have come here."""


class OneProcess:
    """See Processes.  accumulate: how many losses make an update."""

    process_index, num_processes, is_main_process = 0, 1, True

    def __init__(self, device: torch.device, accumulate: int = 1) -> None:
        self.device, self._accumulate = device, accumulate

    def no_sync(self, module: torch.nn.Module) -> contextlib.AbstractContextManager:
        """Nothing to hold back."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See Processes."""
        (loss / self._accumulate).backward()

    def reduce(self, value: Tensor, how: str) -> Tensor:
        """The value itself."""
        return value

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""

    def prepare(self, module: Any) -> Any:
        """The module itself."""
        return module
