"""How many operators tuners add to a sampling step on the host, by torch's profiler.

    python -m benchmarks.inference_operators [--host COMFYUI] [--model sd15] [--before CHECKOUT] [--out FILE.json]

A U-Net of the true structure, but of few channels, samples a small picture with a positive and a negative prompt in one
batch: neither width nor size changes the count.  Operators are all of aten, views and those that others call among
them.  On a GPU a step at usual sizes is bound by their launches.  --before is another checkout of this pack, such as an
earlier build, counted in the same way.  Prints a table and writes JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WIDTH, LATENT = 32, 16
MOST = {"SC-Tuner": 150, "CSC-Tuner": 180, "four CSC-Tuners": 200, "four CSC, two SC-Tuners": 200}


def main() -> None:
    """Count, print, write."""
    from benchmarks.frame import finish, host_version, machine, parser, show
    from benchmarks.inference_host import BEFORE, HostBackend, load_host

    made = parser(__doc__, host=True)
    made.add_argument("--model", choices=("sd15", "sdxl"), default="sd15")
    made.add_argument("--before", type=Path, help="another checkout of this pack")
    options = made.parse_args()
    host_version(options.host)
    backend = HostBackend(load_host(options.host, "float32"), options.model, LATENT, WIDTH, before=options.before)
    counts = {name: step_operators(lambda steps, name=name: backend.run(name, steps, lambda: None))
              for name in backend.variants}  # fmt: skip
    base = counts.pop("base")
    rows = [
        {"variant": name, "added": count - base, "before": counts.get(BEFORE + name, base) - base or None}
        for name, count in counts.items() if not name.startswith(BEFORE)
    ]  # fmt: skip
    for row in rows:
        row["most"] = MOST.get(row["variant"])
    cells = [[row["variant"], *(_cell(row[key]) for key in ("added", "before", "most"))] for row in rows]
    show(f"{backend.title}, {options.model}: {base} operators in a step of the base", ("variant", "added", "before",
         "at most"), cells)  # fmt: skip
    finish(
        {"machine": machine(), "backend": backend.title, "model": options.model, "base": base, "rows": rows}, options
    )


def step_operators(run: Callable[[int], Any]) -> int:
    """Operators of one step after the first, which makes what the others use; `run` samples that many steps."""
    run(1)  # loads
    return _operators(lambda: run(3)) - _operators(lambda: run(2))


def _operators(run: Callable[[], Any]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    return sum(each.count for each in seen.key_averages() if each.key.startswith("aten::"))


def _cell(value: int | None) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
