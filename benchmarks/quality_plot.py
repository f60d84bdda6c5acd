"""The plot of benchmarks/quality.py: how fast controls learn, and what style costs in agreement."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_TITLES = {
    "control": "Control: who learns first",
    "distilling": "A control from a ControlNet",
    "style": "Style after equal steps",
    "ablation": "SC-Tuner",
}


def draw(report: dict, path: Path) -> None:
    """One panel for each task that was run."""
    tasks = [t for t in ("control", "distilling", "style", "ablation") if t in report["tasks"]]
    figure, panels = plt.subplots(1, len(tasks), figsize=(5.2 * len(tasks), 4.2), squeeze=False, layout="constrained")
    for panel, task in zip(panels[0], tasks, strict=True):
        (_control if task in ("control", "distilling") else _style)(panel, report["tasks"][task])
        panel.set_title(_TITLES[task])
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _control(panel, rows: list[dict]) -> None:
    base = rows[0]["seeds"][0]["marks"]["0"]["edge_f1"]
    panel.axhline(base, color="0.6", linestyle=":", label=f"base without control ({base:.2f})")
    for row in rows[1:]:
        steps = [int(s) for s in row["seeds"][0]["marks"]]
        curves = [[seed["marks"][str(s)]["edge_f1"] for s in steps] for seed in row["seeds"]]
        middle = [statistics.mean(at) for at in zip(*curves, strict=True)]
        (line,) = panel.plot(steps, middle, marker="o", label=f"{row['method']} ({row['parameters'] / 1e6:.2f} M)")
        low, high = [min(at) for at in zip(*curves, strict=True)], [max(at) for at in zip(*curves, strict=True)]
        panel.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    panel.set_xlabel("training steps")
    panel.set_ylabel("edge F1 against the hint")
    panel.legend(fontsize=8)


def _style(panel, rows: list[dict]) -> None:
    for row in rows:
        marks = [next(iter(seed["marks"].values())) for seed in row["seeds"]]
        x, y = ([m[name] for m in marks] for name in ("style", "agreement"))
        middle = statistics.mean(x), statistics.mean(y)
        (dot,) = panel.plot(*middle, "o", markersize=7, label=f"{row['method']} ({row['parameters'] / 1e6:.2f} M)")
        for ends in (([min(x), max(x)], [middle[1]] * 2), ([middle[0]] * 2, [min(y), max(y)])):
            panel.plot(*ends, color=dot.get_color(), alpha=0.5)
    panel.set_xlim(-0.05, 1.05)
    panel.set_ylim(0, 1.05)
    panel.set_xlabel("share of pictures in the style")
    panel.set_ylabel("prompt agreement")
    panel.legend(fontsize=8, loc="lower left")
