"""The plot of benchmarks/inference.py: a step of each variant over a step of the base."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_OURS, _OTHERS = "#0f766e", "#9ca3af"
_TITLES = {"sd15": "SD 1.5", "sdxl": "SDXL"}


def draw(report: dict, path: Path) -> None:
    """Write a PNG: a panel for each model, a bar for each variant, with the interval of its median."""
    models = list(report["models"])
    figure, panels = plt.subplots(1, len(models), figsize=(6.4 * len(models), 3.8), squeeze=False, layout="constrained")
    for panel, model in zip(panels[0], models, strict=True):
        told = report["models"][model]
        rows = [row for row in told["rows"] if row["variant"] != "base"][::-1]
        # what was measured inside a step is not disturbed, and has no interval worth drawing
        at = [row["inside"] or row["ratio"] for row in rows]
        ends = [(value, value) if row["inside"] else row["ratio_interval"] for row, value in zip(rows, at, strict=True)]
        extra = [100 * (value - 1) for value in at]
        low = [max(0, 100 * (value - end[0])) for value, end in zip(at, ends, strict=True)]
        high = [max(0, 100 * (end[1] - value)) for value, end in zip(at, ends, strict=True)]
        colours = [_OURS if "Tuner" in row["variant"] else _OTHERS for row in rows]
        panel.barh([row["variant"] for row in rows], extra, xerr=[low, high], color=colours, ecolor="0.4", capsize=2)
        for y, value in enumerate(extra):
            panel.annotate(f"{value:+.1f} %", (max(extra) * 1.03, y), va="center", fontsize=9)
        panel.set_xlim(min(0, *extra), max(extra) * 1.2)
        panel.set_xlabel("time added to a sampling step, %")
        panel.set_title(f"{_TITLES[model]}, {told['latent'] * 8} px, {report['device']}", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(y=0.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
