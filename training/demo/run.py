"""`python -m training demo`: train a style in front of the viewer, then show it beside a control and both together."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from scedit_core import load_tuner
from scedit_core.fitting.machine import peak_memory_mib

from ..bases.loading import load_base
from ..config_file import load_config
from ..errors import BaseModelError, TrainingError
from ..loop import train
from .judge import load_judge
from .measure import drawn, edges_of, held_out_scenes, measure, targets
from .sampling import sample
from .sheet import contact_sheet

ROWS_SEED = 7
ROWS = 6


def run_demo(folder: Path, output: Path) -> Path:
    """Train the style tuner, sample, measure, and write contact_sheet.png, metrics.json and lantern.safetensors.

    Returns the path of the contact sheet.  Raises BaseModelError where the demo folder lacks a file.
    """
    console, start = Console(), time.monotonic()
    missing = [
        n
        for n in ("model_index.json", "judge.safetensors", "canny.safetensors", "style.yaml", "style")
        if not (folder / n).exists()
    ]
    if missing:
        raise BaseModelError(
            f"{folder}: expected the demo folder, found no {', '.join(missing)}; clone the whole repository"
        )
    output.mkdir(parents=True, exist_ok=True)
    console.print("[bold]1/3[/] training a style tuner on the pictures in", str(folder / "style"))
    config = load_config(folder / "style.yaml").model_copy(update={"output": output / "lantern.safetensors"})
    path = train(config, console, start="never")
    if path is None:
        raise TrainingError("demo: expected to train to the end, found a wish to stop; start it again")
    style = load_tuner(path)
    trained = time.monotonic()
    console.print("[bold]2/3[/] sampling a contact sheet")
    base = load_base(folder, torch.float32, Accelerator().device)
    control, judge = load_tuner(folder / "canny.safetensors"), load_judge(folder / "judge.safetensors")
    sheet = draw_sheet(base, style, control, output / "contact_sheet.png")
    console.print("[bold]3/3[/] measuring on prompts that no training picture shows")
    numbers = measure(base, judge, style, control)
    goals = targets(numbers)
    table = Table("what", "value", "target", "")
    for goal in goals:
        sign = "at least" if goal.at_least else "at most"
        table.add_row(goal.name, f"{goal.value:.2f}", f"{sign} {goal.limit:.2f}", "met" if goal.met else "missed")
    console.print(table)
    report = {
        "numbers": {k: round(v, 4) for k, v in numbers.items()},
        "targets": [{**vars(g), "value": round(g.value, 4), "met": g.met} for g in goals],
        "seconds": {"training": round(trained - start, 1), "total": round(time.monotonic() - start, 1)},
        "peak_memory_mib": round(peak_memory_mib(torch.device("cpu"))),
        "torch": torch.__version__,
    }
    (output / "metrics.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    console.print(
        f"{report['seconds']['total']:.0f} s, peak memory {report['peak_memory_mib']} MiB\n"
        f"look at {sheet}\nnumbers in {output / 'metrics.json'}, the tuner in {config.output}",
        highlight=False,
        soft_wrap=True,
    )
    return sheet


def draw_sheet(base, style, control, path: Path) -> Path:
    """The contact sheet of ROWS held-out prompts."""
    scenes = held_out_scenes(ROWS, ROWS_SEED)
    prompts, hints = [s.caption for s in scenes], edges_of(drawn(scenes))
    made = {
        name: sample(base, prompts, ROWS_SEED, tuners, hints)
        for name, tuners in {
            "base": [],
            "sc": [(style, 1.0)],
            "csc": [(control, 1.0)],
            "both": [(control, 1.0), (style, 1.0)],
        }.items()
    }
    return contact_sheet(
        path,
        prompts,
        [
            ("base", "no tuner", made["base"]),
            ("SC-Tuner", "style, just trained", made["sc"]),
            ("hint", "canny edges", hints),
            ("CSC-Tuner", "follows the hint", made["csc"]),
            ("CSC + SC", "both at once", made["both"]),
        ],
    )
