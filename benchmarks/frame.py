"""What all benchmark scripts share: options, machine, clock, table, JSON and plots."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

PACK = Path(__file__).resolve().parents[1]
MIB = 2**20
_OURS, _OTHERS = "#0f766e", "#9ca3af"  # bars of plots
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # names of glibc's mallopt


def parser(doc: str, plot: bool = False, host: bool = False) -> argparse.ArgumentParser:
    """With a script's docstring and --out; --plot where there is one to draw, --host where it needs ComfyUI."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, help="JSON file to write")
    if plot:
        made.add_argument("--plot", type=Path, help="PNG file to draw")
    if host:
        made.add_argument("--host", type=Path, default=found_host(), help="a ComfyUI checkout, else COMFYUI_PATH")
    return made


def found_host() -> Path | None:
    """The ComfyUI checkout of COMFYUI_PATH, else ~/comfy/ComfyUI, where there is one."""
    named = os.environ.get("COMFYUI_PATH", "").split(os.pathsep)[0] or "~/comfy/ComfyUI"
    path = Path(named).expanduser().resolve()
    return path if (path / "comfyui_version.py").is_file() else None


def host_version(host: Path | None) -> str:
    """That of a ComfyUI checkout.  Ends the script where there is none."""
    if host is None or not (host / "comfyui_version.py").is_file():
        raise SystemExit(f"host: expected a ComfyUI checkout, found none in {host}; name it with --host")
    return (host / "comfyui_version.py").read_text("utf-8").split('"')[1]


def machine(*packages: str) -> dict[str, Any]:
    """What it runs on, and the versions of torch and of those packages."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", *packages)}
    system, python = platform.platform(terse=True), platform.python_version()
    return {"device": device_name(), "system": system, "python": python} | versions


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


def bars(path: Path, panels: list[list[tuple[str, dict[str, float]]]], label: str, form: str) -> None:
    """Draw a PNG: rows of panels, each a title and a bar for each name, ours (tuners) in a colour of their own."""
    plt = pyplot()
    high = sum(0.8 + 0.22 * max(len(values) for _, values in row) for row in panels)
    size = 4.4 * max(len(row) for row in panels), high
    figure, axes = plt.subplots(
        len(panels), max(map(len, panels)), figsize=size, squeeze=False, layout="constrained", sharex="row"
    )
    for line, row in zip(axes, panels, strict=True):
        for axis, (title, values) in zip(line, row, strict=True):
            names, colours = list(values)[::-1], [_OURS if "Tuner" in name else _OTHERS for name in values][::-1]
            drawn = axis.barh(names, [values[name] for name in names], color=colours)
            axis.bar_label(drawn, fmt=form, padding=3, fontsize=8)
            axis.set_title(title, fontsize=8)
            axis.tick_params(labelsize=8)
            axis.margins(x=0.2)
            axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(label, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def pyplot():
    """matplotlib's, which draws into files alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


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


def in_turns(rounds: int, clock: Callable[[], float], ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each way; all take turns in each round, so that what disturbs the machine falls on all."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            begun = clock()
            work()
            times[name].append(clock() - begun)
    return {name: statistics.median(each) for name, each in times.items()}


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
