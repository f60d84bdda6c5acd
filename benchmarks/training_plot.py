"""The plot of benchmarks/training.py: what each method keeps for the backward pass, for each model."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.training_models import MODELS

_BARS = [
    ("full fine-tuning", "plain"),
    ("ControlNet", "plain"),
    ("T2I-Adapter", "plain"),
    ("LoRA r64", "plain"),
    ("LoRA r4", "plain"),
    ("LoRA r64", "checkpointing"),
    ("CSC-Tuner", "plain"),
    ("CSC-Tuner", "frozen layers"),
    ("CSC-Tuner", "checkpointing + frozen layers"),
    ("SC-Tuner", "plain"),
    ("SC-Tuner", "frozen layers"),
    ("SC-Tuner", "checkpointing + frozen layers"),
]
_OURS, _OTHERS = "#0f766e", "#9ca3af"


def draw(report: dict, path: Path) -> None:
    """Write a PNG: one panel for each model that `report` holds, saved MiB at its smallest batch."""
    keys = list(dict.fromkeys(row["model"] for row in report["rows"]))
    figure, panels = plt.subplots(1, len(keys), figsize=(4.2 * len(keys) + 2, 4.4), sharey=True, squeeze=False)
    for panel, key in zip(panels[0], keys, strict=True):
        rows = {(row["method"], row["options"]): row for row in report["rows"] if row["model"] == key}
        bars = [(name, options) for name, options in _BARS if (name, options) in rows]
        batch = min(rows[bars[0]]["saved_bytes"], key=int)
        values = [rows[bar]["saved_bytes"][batch] / 2**20 for bar in bars]
        labels = [name if options == "plain" else f"{name}, {options}" for name, options in bars]
        colours = [_OURS if name.endswith("Tuner") else _OTHERS for name, _ in bars]
        drawn = panel.barh(labels, values, color=colours)
        panel.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=9)
        panel.set_title(f"{MODELS[key].title}, {MODELS[key].side} px, batch {batch}", fontsize=11)
        panel.set_xlim(0, max(values) * 1.18)
        panel.set_xlabel("MiB kept for the backward pass")
        panel.spines[["top", "right"]].set_visible(False)
        panel.invert_yaxis() if panel is panels[0][0] else None
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
