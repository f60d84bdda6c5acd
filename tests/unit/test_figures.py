"""docs/figures.md and the README say what the reports in benchmarks/results hold."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = (ROOT / "docs" / "figures.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
MIB = 2**20


def _table(first: str) -> list[list[str]]:
    """The cells of the table in figures.md whose heading begins with `first`, without bold."""
    lines = iter(FIGURES.splitlines())
    next(line for line in lines if line.startswith(f"| {first}"))
    next(lines)
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append([cell.strip().strip("*") for cell in line.strip("|").split("|")])
    return cells


def _results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def test_training_counts_are_those_of_the_report():
    rows = {(row["model"], row["method"], row["savings"]): row for row in _results("training")["rows"]}
    short = {"both": "frozen layers, checkpointing", "both, 8 bits": "frozen layers, checkpointing, 8 bits"}
    seen, method = 0, ""
    for cells in _table("method | savings | trained"):
        method, savings = cells[0] or method, short.get(cells[1], cells[1])
        sd, xl = (rows[model, method, savings] for model in ("sd15", "sdxl"))
        if cells[2]:
            assert cells[2] == f"{sd['parameters'] / 1e6:.1f} / {xl['parameters'] / 1e6:.1f}", method
        expected = []
        for row in (sd, xl):
            expected += [f"{row['kept_bytes']['1'] / MIB:.0f}", *(f"{p / MIB:.0f}" for p in row["peak_bytes"].values())]
            expected += [f"{row['step_flops'] / row['forward_flops']:.2f}", str(row["launches"])]
        assert cells[3:] == expected, (method, savings)
        seen += 1
    assert seen > 30


@pytest.mark.parametrize(("report", "time"), [("inference", 1), ("inference_sdxl", 5)])
def test_sampling_is_that_of_the_report(report, time):
    rows = {row["variant"]: row for row in next(iter(_results(report)["models"].values()))["rows"]}
    table = {cells[0]: cells for cells in _table("variant | SD 1.5")}
    assert rows.keys() <= table.keys()
    for name, row in rows.items():
        if name != "base":
            assert table[name][time] == f"{row['inside']:.3f}", name
        assert table[name][time + 1] == f"{row['flops']:.3f}", name


def test_what_the_readme_claims_has_a_place_in_the_figures():
    claims = re.findall(r"^\| \[.*?\]\(docs/figures\.md#(\w+)\) \|", README, re.MULTILINE)
    assert len(claims) == 5
    assert {f"\n## {name.capitalize()}\n" for name in claims} <= {f"\n{line}\n" for line in FIGURES.splitlines()}


def test_every_command_of_the_figures_is_a_script():
    names = set(re.findall(r"-m benchmarks\.(\w+)", FIGURES + (ROOT / "Makefile").read_text("utf-8")))
    assert {"inference", "training", "quality", "waits", "gpu"} <= names
    assert all(importlib.util.find_spec(f"benchmarks.{name}") for name in names)
