"""The plots of benchmarks/inference.py and training.py, drawn from their reports."""

from __future__ import annotations

from pathlib import Path

from benchmarks.frame import MIB, bars

_TITLES = {"sd15": "SD 1.5", "sd21": "SD 2.1", "sdxl": "SDXL"}
_DRAWN = ("none", "frozen layers", "frozen layers, checkpointing")


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
        if not values or row["method"].startswith("four") or (counted and row["savings"] not in _DRAWN):
            continue
        batch = next(iter(values)) if counted else list(values)[-1]
        title = f"{_TITLES[row['model']]}, {row['resolution']} px, batch {batch}; savings: {row['savings']}"
        value = values[batch] / MIB if counted else values[batch]
        panels.setdefault(row["model"], {}).setdefault(title, {})[row["method"]] = value
    if panels:
        label = "MiB kept for the backward pass" if counted else f"steps per second, {report['machine']['device']}"
        bars(path, [list(each.items()) for each in panels.values()], label, "{:,.0f}" if counted else "{:.2f}")
