"""The plot of benchmarks/inference.py: a step of each variant over a step of the base."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from frame import OTHERS, OURS

_TITLES = {"sd15": "SD 1.5", "sdxl": "SDXL"}


def draw(report: dict, path: Path) -> None:
    """Write a PNG: a panel for each model, a bar for each variant, with the interval of its median."""
    models = list(report["models"])
    figure, panels = plt.subplots(1, len(models), figsize=(6.4 * len(models), 3.8), squeeze=False, layout="constrained")
    for panel, model in zip(panels[0], models, strict=True):
        told = report["models"][model]
        rows = [row for row in told["rows"] if row["variant"] != "base"][::-1]
        extra = [_percent(row["inside"] or row["ratio"]) for row in rows]
        ends = [[_percent(end) for end in row["ratio_interval"]] for row in rows]
        colours = [OURS if "Tuner" in row["variant"] else OTHERS for row in rows]
        panel.barh([row["variant"] for row in rows], extra, color=colours)
        # what was measured inside a step is not disturbed, and has no interval worth drawing
        open_ends = [y for y, row in enumerate(rows) if not row["inside"]]
        for y in open_ends:
            panel.plot(ends[y], [y, y], "|-", color="0.4")
        reach = max(extra + [ends[y][1] for y in open_ends])
        for y, value in enumerate(extra):
            panel.annotate(f"{value:+.1f} %", (reach * 1.03, y), va="center", fontsize=9)
        panel.set_xlim(min(0, *extra), reach * 1.2)
        panel.set_xlabel("time added to a sampling step, %")
        panel.set_title(f"{_TITLES[model]}, {told['latent'] * 8} px, {report['device']}", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(y=0.02)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _percent(ratio: float) -> float:
    return 100 * (ratio - 1)
