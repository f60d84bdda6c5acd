"""What is learned in equal steps: SC-Tuner beside LoRA, CSC-Tuner beside ControlNet and T2I-Adapter.

    python -m benchmarks.quality [--seeds 3] [--ablation-seeds 3] [--control-steps 250 500 1000 2000]
                                 [--style lantern] [--style-steps 600 1200] [--batch 16] [--prompts 72]
                                 [--timesteps 0 999] [--sampling uniform | low | middle | high]
                                 [--only style control ablation distilling]
                                 [--rates FILE.json] [--teachers N]
                                 [--work build/quality] [--out FILE.json] [--plot FILE.png]
    python -m benchmarks.quality --draw FILE.json --plot FILE.png

Needs requirements/test.txt and peft, and the embedded base in demo/.  All methods of a task see the same pictures,
noise and timesteps (--timesteps: the first and the last; --sampling: which are drawn more often) for the same number of
steps.  A CSC-Tuner that learns from the ControlNet of 1000 steps fits its residuals for the first 250 of them, and
pictures then; the task distilling has it in other ways, on drawings without captions too.  Each method takes the
learning rate with which its first seed has the best marks (style times agreement after the first of --style-steps, or
edge F1 after the second of --control-steps), or the one it had in the report --rates, which spares most of the time.
With --teachers, the first so many ControlNets teach the students of all seeds.  Marks are those of `make demo`: a judge
looks at pictures of held-out prompts, and edges are compared with the hints.  The defaults above are those on
a GPU; a CPU does less of each.  Every finished part is kept in --work with what was trained, so that a run that was
interrupted resumes, and one that asks for more seeds or steps adds to them; parts of another base or style are kept
apart.  Ctrl+C ends it with the rows so far, and --draw shows those of a report again.
Prints tables, writes JSON with the machine and the versions, and draws one plot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor

from benchmarks import frame, plots
from benchmarks.frame import PACK, finish, keep_memory, machine, one_of, show, some_of, stoppable
from benchmarks.methods import ALWAYS, TAUGHT, distilled, untouched
from benchmarks.quality_tasks import control_lessons, mark_control, mark_style, style_lessons, teach
from scedit_core.fitting.objective import Objective
from training.bases.loading import load_base
from training.config import ObjectiveConfig
from training.demo.judge import load_judge
from training.demo.styles import TUNER_STYLES

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
NOISE = 0.01  # a rate that is better by less is not
TEACHER_STEPS, RESIDUALS = 1000, 250  # of the ControlNet, and of what its student fits of it first
STUDENT = "CSC-Tuner, kernel 1, from a ControlNet"
_ALONE, _DRAWINGS = f"{STUDENT}, residuals alone", "drawings without captions"
# What a student learns from: the lessons, and steps of residuals and of predictions; pictures follow.
STUDENTS = {
    STUDENT: ("control", RESIDUALS, 0),
    _ALONE: ("control", ALWAYS, 0),
    f"{_ALONE}, {_DRAWINGS}": ("drawings", ALWAYS, 0),
    f"{STUDENT}, then predictions, {_DRAWINGS}": ("drawings", RESIDUALS, ALWAYS),
}
DEMO = PACK / "demo"
ALL = (0, 999)  # timesteps
SAMPLINGS = ("uniform", "low", "middle", "high")


class School:
    """The base, the judge, the lessons, and the marks that were given before."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.judge = load_judge(DEMO / "judge.safetensors")
        weights = b"".join(file.read_bytes() for file in sorted(DEMO.rglob("*.safetensors")))
        first, last = options.timesteps
        part = "" if (first, last) == ALL else f"_{first}_to_{last}"
        part += "" if options.sampling == "uniform" else f"_{options.sampling}"
        self.work = options.work / f"{options.style}_{hashlib.sha256(weights).hexdigest()[:8]}{part}"
        base = self.base()
        config = ObjectiveConfig(timestep_range=(first, last), timestep_sampling=options.sampling)
        self.objective = Objective(base.alphas_cumprod, base.prediction, config)
        self.lessons = {"style": style_lessons(base, options.style)}
        if {"control", "distilling"} & set(options.only):
            self.lessons["control"] = control_lessons(base, self.work / "control_lessons.safetensors")
        if "distilling" in options.only:
            self.lessons["drawings"] = control_lessons(base, self.work / "drawing_lessons.safetensors", drawings=True)

    def base(self):
        """A fresh copy of the embedded base: some methods change it."""
        base = load_base(DEMO, torch.float32, self.device)
        if self.device.type == "cpu":
            base.unet.set_attn_processor(AttnProcessor())  # SDPA's backward pass is slow on a CPU
        return base

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The result under that name, made now or in an earlier run with the same batch and prompts."""
        part = f"{name}, batch {self.options.batch}, prompts {self.options.prompts}".replace(" ", "_")
        path = self.work / f"{part}.json"
        if not path.exists():
            begun = time.monotonic()
            made = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made))
            print(f"{name}: {made} ({time.monotonic() - begun:.0f} s)", flush=True)
        return json.loads(path.read_text())

    def kept(self, pupil: str, seed: int, steps: int) -> Path:
        """Where a pupil's state after that many steps is kept."""
        return self.work / f"{pupil}, seed {seed}, {steps} steps.pt".replace(" ", "_")

    def taught(
        self, name: str, build: Callable, task: str, rate: float, seed: int, ends: list[int], mark: Callable
    ) -> dict:
        """Marks after each of `ends` steps, by number of steps, and the number of parameters."""
        pupil, marks, parameters = None, {}, 0
        name = f"{name}, batch {self.options.batch}, rate {rate:g}"

        def learn(end: int) -> dict:
            nonlocal pupil
            files = [self.kept(name, seed, each) for each in ends if each <= end]
            pupil = pupil or Pupil(self, build, rate, seed, files)
            loss = pupil.learn(task, end, files[-1])
            made = mark(pupil.base, self.judge, pupil.method, self.options.prompts)
            return {**made, "loss": loss, "parameters": sum(p.numel() for p in pupil.trained)}

        for end in ends:
            marks[str(end)] = self.once(f"{name}, seed {seed}, steps {end}", partial(learn, end))
            parameters = marks[str(end)].pop("parameters")
        return {"marks": marks, "parameters": parameters}


class Pupil:
    """A base with a method that is being trained; resumes from the last of `files` that is there."""

    def __init__(self, school: School, build: Callable, rate: float, seed: int, files: list[Path]) -> None:
        self.base, self._school, self._rate, self._seed, self._done = school.base(), school, rate, seed, 0
        torch.manual_seed(seed)
        with school.device:
            self.method = build(self.base.unet)
        self.trained = self.method.parameters()
        self._optimizer = torch.optim.AdamW(self.trained, lr=rate, weight_decay=0.01)
        there = [file for file in files if file.exists()]
        if there:
            state = torch.load(there[-1], weights_only=True)
            self._done = state["done"]
            self._optimizer.load_state_dict(state["optimizer"])
            for p, value in zip(self.trained, state["trained"], strict=True):
                p.data.copy_(value)

    def learn(self, task: str, until: int, file: Path) -> float:
        """Train up to that many steps, and keep what came out.  Returns the mean loss of those that were missing."""
        school, steps = self._school, range(self._done, until)
        loss = teach(
            self.base, self.method, school.objective, school.lessons[task], steps, school.options.batch, self._rate,
            self._optimizer, self._seed,
        )  # fmt: skip
        self._done = until
        trained = [p.detach() for p in self.trained]
        state = {"done": until, "optimizer": self._optimizer.state_dict(), "trained": trained}
        torch.save(state, file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
        return loss


def _best_rate(learn: Callable[[float], dict[str, float]]) -> float:
    """Of RATES the one whose marks are best: from the middle on, up or down for as long as they get better."""

    def mark(i: int) -> float:
        marks = learn(RATES[i])
        return marks.get("edge_f1") or marks["style"] * marks["agreement"]

    best = len(RATES) // 2
    for way in (1, -1):
        while 0 <= best + way < len(RATES) and mark(best + way) > mark(best) + NOISE:
            best += way
    return RATES[best]


def main() -> None:
    """Teach, mark, print, write, draw."""
    gpu = torch.cuda.is_available()
    options = frame.options(
        __doc__, seeds=3 if gpu else 1, ablation_seeds=3 if gpu else 1, style_steps=[600] if gpu else [300],
        control_steps=[250, 500, 1000, 2000] if gpu else [250, 500], style=one_of(TUNER_STYLES, "lantern"), batch=16,
        prompts=72 if gpu else 36, only=some_of(TAUGHT, [each for each in TAUGHT if each != "distilling"]), rates=Path,
        teachers=int, timesteps=list(ALL),
        sampling=one_of(SAMPLINGS, "uniform"), work=PACK / "build" / "quality", draw=Path, plot=Path,
    )  # fmt: skip
    if options.draw:
        report = json.loads(options.draw.read_text("utf-8"))
    else:
        keep_memory()
        told = {name: getattr(options, name) for name in ("style", "batch", "prompts", "timesteps", "sampling")}
        report = {"machine": machine("diffusers", "peft"), **told, "tasks": {task: [] for task in options.only}}
        with stoppable():
            school = School(options)
            for task, rows in report["tasks"].items():
                _task(school, task, rows)
        report["tasks"] = {task: rows for task, rows in report["tasks"].items() if rows}
    for task, rows in report["tasks"].items():
        show(f"{task}: mean over seeds (lowest to highest)", list(_shown(rows)))
    finish(report, options, plots.quality)


def _task(school: School, task: str, rows: list[dict]) -> None:
    """Add a row for each method: its rate, parameters, and marks of each seed by number of steps."""
    options, controls = school.options, task in ("control", "distilling")
    lessons, mark = ("control", mark_control) if controls else ("style", partial(mark_style, options.style))
    ends = options.control_steps if controls else options.style_steps
    if task == "distilling":
        ends = sorted({RESIDUALS // 2, RESIDUALS, TEACHER_STEPS, *ends})
    seeds = options.ablation_seeds if task == "ablation" else options.seeds
    nothing = school.once(f"base, {lessons}", lambda: _base_marks(school, mark))
    rows.append({"method": "base", "parameters": 0, "rate": None, "seeds": [{"marks": {"0": nothing}}]})
    known = _known_rates(options.rates)

    few = ends[:2] if controls else ends[:1]

    def best(name: str, build: Callable) -> float:
        def marks(rate: float) -> dict[str, float]:
            return school.taught(name, build, lessons, rate, 0, few, mark)["marks"][str(few[-1])]

        return known.get(name) or _best_rate(marks)

    fixed = best("style, SC-Tuner", TAUGHT["style"]["SC-Tuner"]) if task == "ablation" else None
    for name, build in TAUGHT[task].items():
        part = f"{lessons if controls else task}, {name}"
        rate = fixed or best(part, build)
        taught = options.teachers if task == "distilling" and name == "ControlNet" else None
        made = [school.taught(part, build, lessons, rate, seed, ends, mark) for seed in range(taught or seeds)]
        rows.append({"method": name, "parameters": made[0]["parameters"], "rate": rate, "seeds": made})
        if name == "ControlNet" and TEACHER_STEPS in ends:
            teacher = f"{part}, batch {options.batch}, rate {rate:g}"
            for student in STUDENTS if task == "distilling" else [STUDENT]:
                rows.append(_distilled(school, student, teacher, rows[1]["rate"]))


def _distilled(school: School, name: str, teacher: str, rate: float) -> dict:
    """The row of the CSC-Tuner that each seed's ControlNet teaches, at the rate of the one that has no teacher."""
    options, (lessons, residuals, predictions) = school.options, STUDENTS[name]
    ends, made = sorted({RESIDUALS // 2, RESIDUALS, *options.control_steps}), []
    for seed in range(options.seeds):
        weights = school.kept(teacher, seed % (options.teachers or seed + 1), TEACHER_STEPS)
        build = partial(distilled, teacher=weights, residuals=residuals, predictions=predictions)
        made.append(school.taught(f"control, {name}", build, lessons, rate, seed, ends, mark_control))
    return {"method": name, "parameters": made[0]["parameters"], "rate": rate, "seeds": made}


def _known_rates(report: Path | None) -> dict[str, float]:
    """The rate of each "task, method" in an earlier report."""
    tasks = json.loads(report.read_text("utf-8"))["tasks"] if report else {}
    return {f"{task}, {row['method']}": row["rate"] for task, rows in tasks.items() for row in rows}


def _base_marks(school: School, mark: Callable) -> dict:
    base = school.base()
    return mark(base, school.judge, untouched(base.unet), school.options.prompts)


def _shown(rows: list[dict]) -> Iterator[dict]:
    """Rows as the table has them, one for each number of steps."""
    for row in rows:
        for steps in row["seeds"][0]["marks"]:
            told = {"method": row["method"], "parameters": f"{row['parameters'] / 1e6:.2f} M", "steps": int(steps)}
            told["rate"] = row["rate"] and f"{row['rate']:g}"
            for name in rows[0]["seeds"][0]["marks"]["0"]:
                values = [seed["marks"][steps][name] for seed in row["seeds"]]
                spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
                told[name] = f"{statistics.mean(values):.3f}{spread}"
            yield told


if __name__ == "__main__":
    main()
