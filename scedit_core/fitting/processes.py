"""The processes that train together, as the loop sees them."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import torch
from torch import Tensor

from .machine import Arriving, moved

_OTHER = "another process"


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


def agreed(processes: Processes, wish: str | None) -> str | None:
    """The wish of any process, so that all of them stop at the same point; each waits for the others."""
    if processes.num_processes == 1:
        return wish
    flag = torch.tensor(float(wish is not None), device=processes.device)
    return (wish or _OTHER) if processes.reduce(flag, "sum").item() else None


class Wishes:
    """What processes want in the midst of training, so that all of them end after the same update.

    Of several processes it is known one update late: then it has arrived, and none waits for its device.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes, self.at_once = processes, processes.num_processes == 1
        self._asked: Arriving | None = None

    def share(self, stop: str | None, over: bool) -> tuple[str | None, bool]:
        """Who wants to stop, and whether the time is over on any process; to be called once an update by all."""
        if self.at_once:
            return stop, over
        flags = moved(torch.tensor([float(stop is not None), float(over)]), self._processes.device)
        before, self._asked = self._asked, Arriving(self._processes.reduce(flags, "sum"))
        if before is None:
            return None, False
        stops, overs = before.read()
        return (stop or _OTHER) if stops else None, bool(overs)
