"""What all benchmark scripts share: options, machine, clock, table, JSON and plots."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

PACK = Path(__file__).resolve().parents[1]
MIB = 2**20
_OURS, _OTHERS = "#0f766e", "#9ca3af"  # bars of plots
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # names of glibc's mallopt


def options(doc: str, **wanted: Any) -> argparse.Namespace:
    """Those of a script, whose docstring says what they do: its own and --out.

    Each is given by its default: False for a switch, a list for one or more; a type where there is none; `one_of` or
    `some_of` for names.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores Ctrl+C for what runs in the background
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**wanted, "out": Path}.items():
        if isinstance(default, dict):
            told = default
        elif default is False:
            told = {"action": "store_true"}
        elif isinstance(default, type):
            told = {"type": default}
        elif isinstance(default, list):
            told = {"type": type(default[0]), "nargs": "+", "default": default}
        else:
            told = {"type": type(default), "default": default}
        made.add_argument(f"--{name.replace('_', '-')}", **told)
    return made.parse_args()


def one_of(names: Iterable[str], default: str | None = None) -> dict[str, Any]:
    """An option that takes one of these names."""
    return {"choices": list(names), "default": default}


def some_of(names: Iterable[str], default: list[str] | None = None) -> dict[str, Any]:
    """An option that takes some of these names, all by default."""
    names = list(names)
    return {"choices": names, "nargs": "+", "default": names if default is None else default}


def found_host() -> Path | None:
    """The ComfyUI checkout of COMFYUI_PATH, else ~/comfy/ComfyUI, where there is one."""
    named = os.environ.get("COMFYUI_PATH", "").split(os.pathsep)[0] or "~/comfy/ComfyUI"
    path = Path(named).expanduser().resolve()
    return path if (path / "comfyui_version.py").is_file() else None


HOST = {"type": Path, "default": found_host()}  # the option of scripts that need ComfyUI
COMPILE = {"nargs": "?", "const": "inductor"}  # the option of what can be compiled, which takes a backend


def host_version(host: Path | None) -> str:
    """That of a ComfyUI checkout.  Ends the script where there is none."""
    if host is None or not (host / "comfyui_version.py").is_file():
        raise SystemExit(f"host: expected a ComfyUI checkout, found none in {host}; name it with --host")
    return (host / "comfyui_version.py").read_text("utf-8").split('"')[1]


def machine(*packages: str) -> dict[str, Any]:
    """What it runs on, and the versions of torch and of those packages."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", *packages)}
    told = {"device": device_name(), "system": platform.platform(terse=True), "python": platform.python_version()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        told |= {"cuda": torch.version.cuda, "memory_mib": card.total_memory // MIB}
        told |= {"capability": f"{card.major}.{card.minor}"}
    return told | versions


def device_name() -> str:
    """The GPU's name, or how many threads the CPU computes with."""
    threads = torch.get_num_threads()
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {threads} thread{'s' * (threads > 1)}"


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table: a column for each key that has a value in some row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    for key in keys:
        words = all(isinstance(row.get(key) or "", str) for row in rows)
        table.add_column(key.replace("_", " "), justify="left" if words else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in keys))
    Console(width=None if sys.stdout.isatty() else 190).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


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


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl+C ends what is inside, and the script shows and writes what it has so far."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; here are the rows so far", file=sys.stderr)


def mark() -> Any:
    """A moment: where there is a GPU in the order of its work, without waiting for it."""
    if not torch.cuda.is_available():
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
