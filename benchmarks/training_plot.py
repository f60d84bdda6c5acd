"""The plot of benchmarks/training.py: what each method keeps for the backward pass, by equal savings."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.frame import OTHERS, OURS
from benchmarks.training_models import MODELS

_SAVINGS = ("none", "frozen layers", "frozen layers, checkpointing")


def draw(report: dict, path: Path) -> None:
    """Write a PNG: a row for each model, a panel for each of three savings, MiB at the smallest batch."""
    rows = [row for row in report["rows"] if "kept_bytes" in row and row["savings"] in _SAVINGS]
    keys = list(dict.fromkeys(row["model"] for row in rows))
    if not keys:
        return
    figure, panels = plt.subplots(
        len(keys), 3, figsize=(13, 3.1 * len(keys)), squeeze=False, layout="constrained", sharex="row"
    )
    for line, key in zip(panels, keys, strict=True):
        for panel, savings in zip(line, _SAVINGS, strict=True):
            mine = [row for row in rows if (row["model"], row["savings"]) == (key, savings)][::-1]
            values = [next(iter(row["kept_bytes"].values())) / 2**20 for row in mine]
            colours = [OURS if row["method"].endswith("Tuner") else OTHERS for row in mine]
            drawn = panel.barh([row["method"] for row in mine], values, color=colours)
            panel.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=8)
            panel.set_title(f"{MODELS[key].title}, {MODELS[key].side} px; savings: {savings}", fontsize=9)
            panel.tick_params(labelsize=8)
            panel.margins(x=0.16)
            panel.spines[["top", "right"]].set_visible(False)
        line[1].set_xlabel("MiB kept for the backward pass, batch 1")
    figure.savefig(path, dpi=110)
    plt.close(figure)
