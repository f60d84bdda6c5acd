"""The plots of benchmarks/inference.py, training.py and quality.py, drawn from their reports."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.frame import MIB, bars, pyplot

_TITLES = {"sd15": "SD 1.5", "sd21": "SD 2.1", "sdxl": "SDXL"}
_DRAWN = ("none", "frozen layers", "frozen layers, checkpointing")
_TASKS = {
    "control": "Control: who learns first",
    "distilling": "A control from a ControlNet",
    "style": "Style after equal steps",
    "ablation": "SC-Tuner",
}


def sampling(report: dict, path: Path) -> None:
    """Write a PNG: a panel for each model, what each variant adds to a step."""
    panels = [
        (
            f"{_TITLES[model]}, {told['latent'] * 8} px, {report['device']}",
            {r["variant"]: 100 * ((r["inside"] or r["ratio"]) - 1) for r in told["rows"] if r["variant"] != "base"},
        )
        for model, told in report["models"].items()
    ]
    bars(path, [panels], "time added to a sampling step, %", "{:+.1f}")


def training(report: dict, path: Path) -> None:
    """Write a PNG: a row for each model, a panel for each of three savings, what is kept at the smallest batch.

    Of a report that was measured alone, each savings' steps per second at the largest batch.
    """
    counted, what = report["counted"], "kept_bytes" if report["counted"] else "steps_per_second"
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for row in report["rows"]:
        values = {batch: value for batch, value in row.get(what, {}).items() if value}
        if not values or ", " in row["method"] or (counted and row["savings"] not in _DRAWN):
            continue  # what is no method of its own is in tables alone
        batch = next(iter(values)) if counted else list(values)[-1]
        title = f"{_TITLES[row['model']]}, {row['resolution']} px, batch {batch}\nsavings: {row['savings']}"
        value = values[batch] / MIB if counted else values[batch]
        panels.setdefault(row["model"], {}).setdefault(title, {})[row["method"]] = value
    if panels:
        label = "MiB kept for the backward pass" if counted else f"steps per second, {report['machine']['device']}"
        bars(path, [list(each.items()) for each in panels.values()], label, "{:,.0f}" if counted else "{:.2f}")


def quality(report: dict, path: Path) -> None:
    """Write a PNG: a panel for each task, how fast controls learn, and what style costs in agreement."""
    plt, tasks = pyplot(), [task for task in _TASKS if task in report["tasks"]]
    figure, panels = plt.subplots(1, len(tasks), figsize=(5.2 * len(tasks), 5.6), squeeze=False, layout="constrained")
    for panel, task in zip(panels[0], tasks, strict=True):
        (_control if task in ("control", "distilling") else _style)(panel, report["tasks"][task])
        panel.set_title(_TASKS[task])
        panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _name(row: dict) -> str:
    return f"{row['method']} ({row['parameters'] / 1e6:.2f} M)"


def _control(panel, rows: list[dict]) -> None:
    base = rows[0]["seeds"][0]["marks"]["0"]["edge_f1"]
    panel.axhline(base, color="0.6", linestyle=":", label=f"base without control ({base:.2f})")
    for row in rows[1:]:
        steps = list(row["seeds"][0]["marks"])
        found = [[seed["marks"][step]["edge_f1"] for seed in row["seeds"]] for step in steps]
        steps = list(map(int, steps))
        (line,) = panel.plot(steps, list(map(statistics.mean, found)), marker="o", label=_name(row))
        panel.fill_between(
            steps, list(map(min, found)), list(map(max, found)), color=line.get_color(), alpha=0.15, linewidth=0
        )
    panel.set_xlabel("training steps")
    panel.set_ylabel("edge F1 against the hint")


def _style(panel, rows: list[dict]) -> None:
    for row in rows:
        marks = [next(iter(seed["marks"].values())) for seed in row["seeds"]]
        x, y = ([mark[name] for mark in marks] for name in ("style", "agreement"))
        middle = statistics.mean(x), statistics.mean(y)
        (dot,) = panel.plot(*middle, "o", markersize=7, label=_name(row))
        for ends in (([min(x), max(x)], [middle[1]] * 2), ([middle[0]] * 2, [min(y), max(y)])):
            panel.plot(*ends, color=dot.get_color(), alpha=0.5)
    panel.set_xlim(-0.05, 1.05)
    panel.set_ylim(0, 1.05)
    panel.set_xlabel("share of pictures in the style")
    panel.set_ylabel("prompt agreement")
