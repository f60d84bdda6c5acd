"""What tuners cost while sampling, beside ControlNet and T2I-Adapter: milliseconds a step, and memory.

    python benchmarks/inference.py [--host COMFYUI] [--model sd15 sdxl] [--latent N] [--width 320] [--steps 4]
                                   [--rounds 3] [--variants ...] [--out FILE.json] [--plot FILE.png]

On a ComfyUI checkout (--host, else COMFYUI_PATH, else ~/comfy/ComfyUI) tuners run as its nodes apply them; without one
they run on diffusers' U-Net.  A U-Net of the true shape with random weights samples one picture with a positive and a
negative prompt, which is batch 2: in half precision on a GPU, in float32 on a CPU.  Every run of a variant follows one
of the base, and is compared with it, so that what else the machine does falls on both; the ratio of the fastest steps
is the one that disturbances touch least.  The first step of a run, in which hints are encoded, is a column of its own.
Ctrl+C ends it with the rounds so far.  Prints a table, writes JSON with the machine and the versions, and draws one
plot.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any, Protocol

from steady import keep_memory

TARGETS = {"SC-Tuner": 1.03, "CSC-Tuner": 1.04, "four CSC-Tuners": 1.12}
LATENTS = {"sd15": 64, "sdxl": 128}
BASE = "base"


class Backend(Protocol):
    """Something that samples.

    title:    what it is, with its version.
    device:   what it runs on.
    dtype:    what it computes in.
    variants: their names, the base first.
    """

    title: str
    device: str
    dtype: str
    variants: list[str]

    def run(self, variant: str, steps: int) -> list[float]:
        """Seconds of each of `steps` sampling steps."""

    def weights(self, variant: str) -> int:
        """Bytes of all weights that the variant needs, the U-Net included."""

    def peak(self) -> int | None:
        """The most bytes on the GPU since the last call, or None where there is none."""


def main() -> None:
    """Measure, print, write, draw."""
    options = _options()
    keep_memory()
    report: dict[str, Any] = {"machine": _machine(), "batch": 2, "models": {}}
    for model in options.model:
        backend = _backend(options, model)
        report |= {"backend": backend.title, "device": backend.device, "dtype": backend.dtype}
        latent = options.latent or LATENTS[model]
        report["models"][model] = {"latent": latent, "width": options.width, "rows": _rows(backend, options)}
        _print(report, model)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if options.plot:
        from inference_plot import draw

        draw(report, options.plot)


def _rows(backend: Backend, options: argparse.Namespace) -> list[dict[str, Any]]:
    names = [n for n in backend.variants if n == BASE or not options.variants or n in options.variants]
    for name in names:  # not counted: to load and to warm up
        backend.run(name, 1)
        print(f"ready: {name}", file=sys.stderr)
    first: dict[str, list[float]] = {name: [] for name in names}
    later: dict[str, list[float]] = {name: [] for name in names}
    fastest: dict[str, float] = dict.fromkeys(names, math.inf)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    peaks = dict.fromkeys(names, 0)
    try:
        for done in range(options.rounds):
            for name in names[1:]:
                pair = {}
                for each in (BASE, name):
                    backend.peak()
                    seconds = backend.run(each, options.steps)
                    peaks[each] = max(peaks[each], backend.peak() or 0)
                    first[each].append(seconds[0])
                    fastest[each] = min(fastest[each], *seconds[1:])
                    pair[each] = statistics.median(seconds[1:])
                    later[each].append(pair[each])
                ratios[name].append(pair[name] / pair[BASE])
            print(f"round {done + 1} of {options.rounds}", file=sys.stderr)
    except KeyboardInterrupt:
        if not ratios[names[-1]]:
            raise
    bare = backend.weights(BASE)
    return [
        {
            "variant": name,
            "step_ms": round(1000 * statistics.median(later[name]), 2),
            "first_step_ms": round(1000 * statistics.median(first[name]), 2),
            "ratio": round(statistics.median(ratios[name] or [1.0]), 4),
            "ratio_range": [round(min(ratios[name] or [1.0]), 4), round(max(ratios[name] or [1.0]), 4)],
            "fastest_ratio": round(fastest[name] / fastest[BASE], 4),
            "target": TARGETS.get(name),
            "weights_mb": round((backend.weights(name) - bare) / 1e6, 1),
            "peak_mb": round(peaks[name] / 1e6, 1) or None,
        }
        for name in names
    ]


def _print(report: dict[str, Any], model: str) -> None:
    told = report["models"][model]
    print(
        f"{model}, latent {told['latent']}, width {told['width']}, batch {report['batch']}; {report['backend']}, "
        f"{report['device']}, {report['dtype']}, torch {report['machine']['torch']}"
    )
    heads = (
        ("step", 12),
        ("first step", 14),
        ("ratio", 9),
        ("range", 18),
        ("fastest", 9),
        ("target", 8),
        ("weights", 11),
        ("peak", 11),
    )
    print(f"{'variant':<24}" + "".join(f"{name:>{width}}" for name, width in heads))
    for row in told["rows"]:
        low, high = row["ratio_range"]
        target = "" if row["target"] is None else f"{row['target']:.2f}"
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f} MB"
        print(
            f"{row['variant']:<24}{row['step_ms']:>9.1f} ms{row['first_step_ms']:>11.1f} ms{row['ratio']:>9.3f}"
            f"{f'{low:.3f} to {high:.3f}':>18}{row['fastest_ratio']:>9.3f}{target:>8}{row['weights_mb']:>8.0f} MB"
            f"{peak:>11}"
        )


def _backend(options: argparse.Namespace, model: str) -> Backend:
    latent = options.latent or LATENTS[model]
    if options.host is not None:
        from inference_host import HostBackend

        return HostBackend(options.host, model, latent, options.width)
    from inference_diffusers import DiffusersBackend

    return DiffusersBackend(model, latent, options.width)


def _machine() -> dict[str, str]:
    import torch

    return {"torch": torch.__version__, "python": platform.python_version(), "system": platform.platform(terse=True)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--host", type=Path, default=_found_host(), help="a ComfyUI checkout")
    parser.add_argument("--no-host", dest="host", action="store_const", const=None, help="measure on diffusers")
    parser.add_argument("--model", nargs="+", choices=LATENTS, default=["sd15"])
    parser.add_argument("--latent", type=int, help="side of the latent, that of the model's own size by default")
    parser.add_argument("--width", type=int, default=320, help="channels of the U-Net's first level, truly 320")
    parser.add_argument("--steps", type=int, default=4, help="sampling steps in each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--variants", nargs="+", help="names of those to measure, all by default")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="PNG file to draw")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error(f"--steps: expected at least 2, since the first is told apart, found {options.steps}; raise it")
    return options


def _found_host() -> Path | None:
    named = os.environ.get("COMFYUI_PATH", "").split(os.pathsep)[0] or "~/comfy/ComfyUI"
    path = Path(named).expanduser()
    return path if (path / "comfyui_version.py").is_file() else None


if __name__ == "__main__":
    main()
