"""What all benchmark scripts share: options, machine, clock, table, JSON and plot."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

PACK = Path(__file__).resolve().parents[1]
OURS, OTHERS = "#0f766e", "#9ca3af"  # bars of plots
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # names of glibc's mallopt


def parser(doc: str, plot: bool = False) -> argparse.ArgumentParser:
    """With the first sentence of a script's docstring, --out, and --plot where there is one to draw."""
    made = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    made.add_argument("--out", type=Path, help="JSON file to write")
    if plot:
        made.add_argument("--plot", type=Path, help="PNG file to draw")
    return made


def machine(*packages: str) -> dict[str, Any]:
    """What it runs on, and the versions of torch and of those packages."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", *packages)}
    return {
        "device": device_name(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    } | versions


def device_name() -> str:
    """The GPU's name, or how many threads the CPU computes with."""
    threads = torch.get_num_threads()
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {threads} thread{'s' * (threads > 1)}"


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table, the first `left` columns flush left."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < left else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 190).print(table)


def finish(
    report: dict[str, Any], options: argparse.Namespace, draw: Callable[[dict, Path], None] | None = None
) -> None:
    """Write the report where --out says and draw where --plot does."""
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if draw and options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        draw(report, options.plot)


def listen_to_ctrl_c() -> None:
    """Have Ctrl+C raise KeyboardInterrupt, which a shell turns off in what it starts in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def mark(gpu: bool) -> Any:
    """A moment: in the order of the GPU's work, without waiting for it."""
    if not gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(begin: Any, end: Any) -> float:
    """Seconds between two marks."""
    if isinstance(begin, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def keep_memory() -> None:
    """Have glibc reuse freed memory instead of handing it back, so that timings on a CPU are not those of the kernel.

    By default every large tensor is mapped anew and its pages are zeroed by the kernel, which took a quarter of a
    U-Net's step and most of its jitter (benchmarks/NOTES.md).  Does nothing elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_ARENA_MAX, 1)  # threads' own arenas would give it back
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
