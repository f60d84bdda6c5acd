"""`python -m training demo`: train a style in front of the viewer, then show it beside a control and both together."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError

from scedit_core import CSCTuner, SCTuner, load_tuner
from scedit_core.errors import BaseModelError, TrainingError
from scedit_core.fitting.machine import peak_memory_mib

from ..bases.base_model import BaseModel
from ..bases.loading import load_base
from ..config_file import load_config
from ..loop import train
from .build import SHIPPED, STYLE_SEEDS, TRAINED, train_style
from .judge import Judge, load_judge
from .measure import drawn, edges_of, held_out_scenes, measure, plainly_drawn, targets
from .pictures import random_scenes
from .sampling import sample
from .sheet import Block, contact_sheet

ROWS_SEED = 7
ROWS = 6  # of each style
TITLES = [
    ("base", "no tuner"),
    ("SC-Tuner", "the style"),
    ("hint", "canny edges"),
    ("CSC-Tuner", "follows the hint"),
    ("CSC + SC", "both at once"),
]
NEEDED = ("model_index.json", "judge.safetensors", "canny.safetensors", f"{SHIPPED}.safetensors", "style.yaml", "style")


def run_demo(folder: Path, output: Path, measured: bool = False) -> Path:
    """Train the style tuner, sample, and write contact_sheet.png, metrics.json and lantern.safetensors.

    measured: also train the other styles and score held-out prompts, which takes minutes.  An interrupted training
    resumes.  Returns the path of the contact sheet.  Raises BaseModelError where the demo folder lacks a file or one
    cannot be read.
    """
    console, start = Console(), time.monotonic()
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        raise BaseModelError(
            f"{folder}: expected the demo folder, found no {', '.join(missing)}; clone the whole repository"
        )
    output.mkdir(parents=True, exist_ok=True)
    parts = 3 if measured else 2
    control, shipped, judge = _tuner(folder, "canny"), _tuner(folder, SHIPPED), _judge(folder)
    console.print(f"[bold]1/{parts}[/] training a style tuner on the pictures in {folder / 'style'}")
    style = train_in_view(folder, output, console)
    trained = time.monotonic()
    console.print(f"[bold]2/{parts}[/] sampling a contact sheet")
    device = Accelerator().device
    base = load_base(folder, torch.float32, device)
    sheet = draw_sheet(base, {TRAINED: style, SHIPPED: shipped}, control, output / "contact_sheet.png")
    report = {"seconds": {"training": round(trained - start, 1), "sheet": round(time.monotonic() - trained, 1)}}
    if measured:
        console.print(f"[bold]3/{parts}[/] measuring on prompts that no training picture shows")
        report |= _measured(folder, output, judge, {TRAINED: style}, control, console)
    report["seconds"]["total"] = round(time.monotonic() - start, 1)
    report |= {"peak_memory_mib": round(peak_memory_mib(torch.device("cpu"))), "torch": torch.__version__}
    (output / "metrics.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    console.print(
        f"{report['seconds']['total']:.0f} s, peak memory {report['peak_memory_mib']} MiB; "
        f"numbers in {output / 'metrics.json'}, the tuner in {output / TRAINED}.safetensors\n"
        f"look at {sheet}",
        highlight=False,
        soft_wrap=True,
    )
    return sheet


def train_in_view(folder: Path, output: Path, console: Console) -> SCTuner:
    """Train the style of `folder` into `output`, resuming what was interrupted.  Raises TrainingError if stopped."""
    tuner = output / f"{TRAINED}.safetensors"
    config = load_config(folder / "style.yaml").model_copy(update={"output": tuner})
    path = train(config, console, start="never" if tuner.exists() else "auto")  # without a tuner, the last one stopped
    if path is None:
        raise TrainingError("demo: expected to train to the end, found a wish to stop; start it again and it resumes")
    return load_tuner(path)


def _tuner(folder: Path, name: str) -> SCTuner | CSCTuner:
    return load_tuner(folder / f"{name}.safetensors")


def _judge(folder: Path) -> Judge:
    path = folder / "judge.safetensors"
    try:
        return load_judge(path)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise BaseModelError(
            f"{path}: expected the judge of this version of the demo, found another or a damaged file; "
            "restore the demo folder from the repository"
        ) from error


def _measured(
    folder: Path, output: Path, judge: Judge, styles: dict[str, SCTuner], control: CSCTuner, console: Console
) -> dict:
    for name in STYLE_SEEDS.keys() - styles.keys():
        console.print(f"training the style {name}")
        styles[name] = load_tuner(train_style(folder, output, name))
    device = Accelerator().device
    base = load_base(folder, torch.float32, device)
    numbers = measure(base, judge, styles, control)
    goals = targets(numbers)
    table = Table("what", "value", "target", "")
    for goal in goals:
        sign = "at least" if goal.at_least else "at most"
        table.add_row(goal.name, f"{goal.value:.2f}", f"{sign} {goal.limit:.2f}", "met" if goal.met else "missed")
    console.print(table)
    return {
        "numbers": {k: round(v, 4) for k, v in numbers.items()},
        "targets": [{**vars(g), "value": round(g.value, 4), "met": g.met} for g in goals],
    }


def draw_sheet(base: BaseModel, styles: dict[str, SCTuner], control: CSCTuner, path: Path, rows: int = ROWS) -> Path:
    """The contact sheet: `rows` held-out prompts for each of two styles."""
    blocks = []
    for number, (name, style) in enumerate(styles.items()):
        seed = ROWS_SEED + 100 * number
        scenes = held_out_scenes(rows, seed)
        prompts, hints = [s.caption for s in scenes], edges_of(plainly_drawn(scenes, name))
        made = [
            sample(base, prompts, seed, tuners, hints)
            for tuners in ([], [(style, 1.0)], [(control, 1.0)], [(control, 1.0), (style, 1.0)])
        ]
        learned = drawn(random_scenes(2, STYLE_SEEDS[name]), name)
        told = "trained by the demo" if name == TRAINED else "ships in demo/"
        blocks.append(Block(name, told, learned, prompts, [made[0], made[1], hints, made[2], made[3]]))
    return contact_sheet(path, TITLES, blocks)
