"""What is learned in equal steps: SC-Tuner beside LoRA, CSC-Tuner beside ControlNet and T2I-Adapter.

    python benchmarks/quality.py [--seeds 3] [--ablation-seeds 3] [--control-steps 250 500 1000 2000]
                                 [--style lantern] [--style-steps 600] [--batch 16] [--prompts 72]
                                 [--only style control ablation distilling] [--rates FILE.json] [--teachers N]
                                 [--work build/quality] [--out FILE.json] [--plot FILE.png]

Needs requirements/train.txt and peft, and the embedded base in demo/.  All methods of a task see the same pictures,
noise and timesteps for the same number of steps (a CSC-Tuner that learns from the ControlNet of 1000 steps fits its
residuals for the first 250 of them, and pictures then; the task distilling has it in other ways, on drawings without
captions too); each takes the learning rate with which its first seed has the best marks (style times agreement, or
edge F1 after the second of --control-steps), or the one it had in the report --rates, which spares most of the time.
With --teachers, the first so many ControlNets teach the students of all seeds.  Marks are those of `make demo`: a judge
looks at pictures of held-out prompts, and edges are compared with the hints.  The defaults above are those on
a GPU; a CPU does less of each.  Every finished part is kept in --work with what was trained, so that a run that was
interrupted resumes, and one that asks for more seeds or steps adds to them; parts of another base or style are kept
apart.
Prints tables, writes JSON with the machine and the versions, and draws one plot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, where training.py hides the package

import torch
from diffusers.models.attention_processor import AttnProcessor
from rich.console import Console
from rich.table import Table

from benchmarks.frame import finish, keep_memory, machine, parser
from benchmarks.quality_methods import ABLATION, CONTROL, DISTILLING, STYLE, Method, distilled, to_device, untouched
from benchmarks.quality_plot import draw
from benchmarks.quality_tasks import control_lessons, mark_control, mark_style, style_lessons, teach
from scedit_core.fitting.objective import Objective
from training.bases.loading import load_base
from training.config import ObjectiveConfig
from training.demo.judge import load_judge
from training.demo.styles import TUNER_STYLES

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
NOISE = 0.01  # a rate that is better by less is not
TEACHER_STEPS, RESIDUALS, ALL = 1000, 250, 10**9  # of the ControlNet, and of what its student fits of it first
STUDENT = "CSC-Tuner, kernel 1, from a ControlNet"
# What a student learns from: the lessons, steps of residuals and of predictions (pictures follow), and the student that
# it is the same as for the first RESIDUALS steps.
STUDENTS = {
    STUDENT: ("control", RESIDUALS, 0, None),
    f"{STUDENT}, residuals alone": ("control", ALL, 0, STUDENT),
    f"{STUDENT}, residuals alone, drawings without captions": ("drawings", ALL, 0, None),
    f"{STUDENT}, then predictions, drawings without captions": (
        "drawings",
        RESIDUALS,
        ALL,
        f"{STUDENT}, residuals alone, drawings without captions",
    ),
}
ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo"


class School:
    """The base, the judge, the lessons, and the marks that were given before."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.console = options, Console()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.judge = load_judge(DEMO / "judge.safetensors")
        options.work /= f"{options.style}_{_fingerprint(DEMO)}"
        base = self.base()
        self.objective = Objective(base.alphas_cumprod, base.prediction, ObjectiveConfig())
        self.lessons = {"style": style_lessons(base, options.style)}
        if {"control", "distilling"} & set(options.only):
            self.lessons["control"] = control_lessons(base, options.work / "control_lessons.safetensors")
        if "distilling" in options.only:
            self.lessons["drawings"] = control_lessons(
                base, options.work / "drawing_lessons.safetensors", drawings=True
            )

    def base(self):
        """A fresh copy of the embedded base: some methods change it."""
        base = load_base(DEMO, torch.float32, self.device)
        if self.device.type == "cpu":
            base.unet.set_attn_processor(AttnProcessor())  # SDPA's backward pass is slow on a CPU
        return base

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The result under that name, made now or in an earlier run with the same batch and prompts."""
        part = f"{name}, batch {self.options.batch}, prompts {self.options.prompts}".replace(" ", "_")
        path = self.options.work / f"{part}.json"
        if not path.exists():
            begun = time.monotonic()
            made = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(made))
            self.console.print(f"{name}: {made} ({time.monotonic() - begun:.0f} s)", highlight=False)
        return json.loads(path.read_text())

    def taught(
        self,
        name: str,
        build: Callable,
        task: str,
        rate: float,
        seed: int,
        ends: list[int],
        mark: Callable,
        begin: Path | None = None,
    ) -> dict:
        """Marks after each of `ends` steps, by number of steps, and the number of parameters.

        begin: what another pupil has kept, for one that is the same so far.
        """
        pupil, marks, parameters = None, {}, 0

        def learn(end: int) -> dict:
            nonlocal pupil
            kept = self.options.work / f"{_part(name, seed)}.pt"
            pupil = pupil or Pupil(self, build, task, rate, seed, kept, end, begin)
            loss = pupil.learn(end)
            made = mark(pupil.base, self.judge, pupil.method, self.options.prompts)
            return {**made, "loss": loss, "parameters": pupil.method.parameters}

        for end in ends:
            told = self.once(f"{_part(name, seed)}, steps {end}", lambda end=end: learn(end))
            parameters = told.pop("parameters")
            marks[str(end)] = told
        return {"marks": marks, "parameters": parameters}


class Pupil:
    """A base with a method that is being trained; resumes from the file `kept` of an earlier run, else from `begin`."""

    def __init__(
        self,
        school: School,
        build: Callable,
        task: str,
        rate: float,
        seed: int,
        kept: Path | None = None,
        end: int = 0,
        begin: Path | None = None,
    ) -> None:
        self.base, self._school, self._task, self._rate, self._seed = school.base(), school, task, rate, seed
        torch.manual_seed(seed)
        self.method: Method = build(self.base.unet)
        to_device(self.method, school.device)
        self._optimizer = torch.optim.AdamW(self.method.trained, lr=rate, weight_decay=0.01)
        self._done, self._kept = 0, kept
        states = (torch.load(file, weights_only=True) for file in (kept, begin) if file is not None and file.exists())
        state = next((state for state in states if state["done"] <= end), None)
        if state is not None:
            self._done = state["done"]
            self._optimizer.load_state_dict(state["optimizer"])
            with torch.no_grad():
                for p, was in zip(self.method.trained, state["trained"], strict=True):
                    p.copy_(was)

    def learn(self, until: int) -> float:
        """Train up to that many steps.  Returns the mean loss of those that were missing."""
        school = self._school
        loss = teach(
            self.base, self.method, school.objective, school.lessons[self._task], range(self._done, until),
            school.options.batch, self._rate, self._optimizer, self._seed,
        )  # fmt: skip
        self._done = until
        if self._kept is not None:
            trained = [p.detach() for p in self.method.trained]
            state = {"done": until, "optimizer": self._optimizer.state_dict(), "trained": trained}
            for path in (_after(self._kept, until), self._kept):
                whole = path.with_suffix(".part")
                torch.save(state, whole)
                whole.replace(path)
        return loss


def _after(kept: Path, steps: int) -> Path:
    """Where the state after that many steps is kept, beside the newest."""
    return kept.with_name(f"{kept.stem},_{steps}_steps.pt")


def _fingerprint(base: Path) -> str:
    """Eight digits that tell bases apart by their weights."""
    files = sorted(base.rglob("*.safetensors"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:8]


def _part(name: str, seed: int) -> str:
    return f"{name}, seed {seed}".replace(" ", "_")


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
    options = _options()
    keep_memory()
    school = School(options)
    report = {
        "machine": machine("diffusers", "peft"),
        "style": options.style,
        "batch": options.batch,
        "prompts": options.prompts,
        "tasks": {},
    }
    for task in options.only:
        report["tasks"][task] = _task(school, task)
        _print(school.console, task, report["tasks"][task])
    finish(report, options, draw)


def _task(school: School, task: str) -> list[dict]:
    """One row for each method: its rate, parameters, and marks of each seed by number of steps."""
    options = school.options
    methods = {"style": STYLE, "control": CONTROL, "ablation": ABLATION, "distilling": DISTILLING}[task]
    controls = task in ("control", "distilling")
    lessons, mark = ("control", mark_control) if controls else ("style", partial(mark_style, options.style))
    ends = options.control_steps if controls else [options.style_steps]
    if task == "distilling":
        ends = sorted({RESIDUALS // 2, RESIDUALS, TEACHER_STEPS, *ends})
    seeds = options.ablation_seeds if task == "ablation" else options.seeds
    nothing = school.once(f"base, {lessons}", lambda: _base_marks(school, mark))
    rows = [{"method": "base", "parameters": 0, "rate": None, "seeds": [{"marks": {"0": nothing}}]}]

    def learn(name: str, build: Callable, rate: float, seed: int, ends: list[int]) -> dict:
        return school.taught(f"{name}, batch {options.batch}, rate {rate:g}", build, lessons, rate, seed, ends, mark)

    known = _known_rates(options.rates)

    def best(name: str, build: Callable) -> float:
        first = ends[:2]
        return known.get(name) or _best_rate(lambda rate: learn(name, build, rate, 0, first)["marks"][str(first[-1])])

    fixed = best("style, SC-Tuner", STYLE["SC-Tuner"]) if task == "ablation" else None
    for name, build in methods.items():
        part = f"{lessons if controls else task}, {name}"
        rate = fixed or best(part, build)
        few = options.teachers if task == "distilling" and name == "ControlNet" else None
        made = [learn(part, build, rate, seed, ends) for seed in range(few or seeds)]
        rows.append({"method": name, "parameters": made[0]["parameters"], "rate": rate, "seeds": made})
        if name == "ControlNet" and TEACHER_STEPS in ends:
            teacher = f"{part}, batch {options.batch}, rate {rate:g}"
            for student in STUDENTS if task == "distilling" else [STUDENT]:
                rows.append(_distilled(school, student, teacher, rows[1]["rate"]))
    return rows


def _distilled(school: School, name: str, teacher: str, rate: float) -> dict:
    """The row of the CSC-Tuner that each seed's ControlNet teaches, at the rate of the one that has no teacher."""
    options, (lessons, residuals, predictions, like) = school.options, STUDENTS[name]
    ends = sorted({RESIDUALS // 2, RESIDUALS, *options.control_steps})

    def learn(seed: int) -> dict:
        weights = _after(options.work / f"{_part(teacher, seed % (options.teachers or seed + 1))}.pt", TEACHER_STEPS)
        build = partial(distilled, teacher=weights, residuals=residuals, predictions=predictions)

        def taught(name: str, ends: list[int], begin: Path | None = None) -> dict:
            part = f"control, {name}, batch {options.batch}, rate {rate:g}"
            return school.taught(part, build, lessons, rate, seed, ends, mark_control, begin)

        if like is None:
            return taught(name, ends)
        before = taught(like, [end for end in ends if end <= RESIDUALS])
        same = _part(f"control, {like}, batch {options.batch}, rate {rate:g}", seed)
        after = taught(name, [end for end in ends if end > RESIDUALS], _after(options.work / f"{same}.pt", RESIDUALS))
        return {"marks": before["marks"] | after["marks"], "parameters": before["parameters"]}

    made = [learn(seed) for seed in range(options.seeds)]
    return {"method": name, "parameters": made[0]["parameters"], "rate": rate, "seeds": made}


def _known_rates(report: Path | None) -> dict[str, float]:
    """The rate of each "task, method" in an earlier report."""
    tasks = json.loads(report.read_text("utf-8"))["tasks"] if report else {}
    return {f"{task}, {row['method']}": row["rate"] for task, rows in tasks.items() for row in rows}


def _base_marks(school: School, mark: Callable) -> dict:
    base = school.base()
    return mark(base, school.judge, untouched(base.unet), school.options.prompts)


def _print(console: Console, task: str, rows: list[dict]) -> None:
    names = [k for k in rows[0]["seeds"][0]["marks"]["0"] if k != "loss"]
    table = Table("method", "parameters", "rate", "steps", *names, title=f"{task}: mean over seeds (lowest to highest)")
    for row in rows:
        for steps in row["seeds"][0]["marks"]:
            cells = []
            for name in names:
                values = [seed["marks"][steps][name] for seed in row["seeds"]]
                spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.3f}{spread}")
            rate = "" if row["rate"] is None else f"{row['rate']:g}"
            table.add_row(row["method"], f"{row['parameters'] / 1e6:.2f} M", rate, steps, *cells)
    console.print(table)


def _options() -> argparse.Namespace:
    made = parser(__doc__, plot=True)
    gpu = torch.cuda.is_available()
    made.add_argument("--seeds", type=int, default=3 if gpu else 1)
    made.add_argument("--ablation-seeds", type=int, default=3 if gpu else 1)
    made.add_argument("--control-steps", type=int, nargs="+", default=[250, 500, 1000, 2000] if gpu else [250, 500])
    made.add_argument("--style-steps", type=int, default=600 if gpu else 300)
    made.add_argument("--style", choices=tuple(TUNER_STYLES), default="lantern", help="what the style task teaches")
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--prompts", type=int, default=72 if gpu else 36)
    made.add_argument(
        "--only",
        nargs="+",
        choices=("style", "control", "ablation", "distilling"),
        default=["style", "control", "ablation"],
    )
    made.add_argument("--rates", type=Path, help="a report whose learning rates are used, instead of searching them")
    made.add_argument("--teachers", type=int, help="how many ControlNets teach the students of all seeds, in turn")
    made.add_argument("--work", type=Path, default=ROOT / "build" / "quality", help="finished parts, for a restart")
    return made.parse_args()


if __name__ == "__main__":
    main()
