"""Several tuners on one pass of the encoder: the same pictures, noise and noise levels for other rates or shapes.

Nothing that is trained feeds the encoder or the middle block, so that all tuners of a sweep share them in each step;
the decoder runs once for each tuner.  What each learns is what it would learn alone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, TrainingError
from ..saving import replace_file
from ..tuners import CSCTuner, SCTuner
from .checkpoints import checkpoints_in, load_checkpoint
from .earlier import forget_surplus
from .event_log import EVENTS_FILE, EventLog, latest_run_of_steps, read_events
from .events import Events
from .loop import apply_update, before_the_first, do_what_is_due, due_now, finish, posed, save_whole, tell
from .machine import moved
from .new_tuner import new_tuner
from .objective import loss_of
from .optimizing import changing
from .planning import plan
from .report_page import element, page, table
from .resuming import leave_earlier, leave_later, tell_of_nothing_left
from .run import Run
from .run_folder import RunFolder, Stopped
from .told import Told
from .validation import Validation

# What may differ between the tuners of a sweep, and the section of the settings that has it.
KEYS = {"learning_rate": "loop", "ratio": "tuner", "blocks": "tuner", "kernel": "tuner"}
MOST = 16
_RECENT = 0.05  # the weight of a loss in the running mean
REPORT_FILE, RESULT_FILE = "sweep.html", "sweep.json"


def variants(config: Any, sweep: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The settings of each tuner by its label, such as "learning_rate 0.0002, ratio 2": all combinations.

    Each keeps two checkpoints at least: where a run is killed while they are saved, all go back to the one before.
    Raises ConfigError for keys that a sweep cannot have, for none, for too many and for tuners that would be alike.
    """
    sweep = {key: list(values) for key, values in sweep.items() if values}
    unknown = sorted(set(sweep) - set(KEYS))
    count = math.prod(map(len, sweep.values()))
    if unknown or not sweep or count > MOST:
        found = f"{unknown[0]}" if unknown else f"{count} tuners" if sweep else "none"
        raise ConfigError(
            f"sweep: expected lists for {', '.join(KEYS)}, of at most {MOST} tuners together, found {found}; correct it"
        )
    _refuse_alike(config.tuner, sweep)
    found = {}
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        label = ", ".join(f"{key} {_said(value)}" for key, value in chosen.items())
        name = "_".join(f"{key}-{_said(value)}" for key, value in chosen.items()).replace(" ", "")
        made = _changed(config, "", output=config.output.with_name(f"{config.output.stem}_{name}.safetensors"))
        made = _changed(made, "", **_place(config, name))
        made = _changed(made, "saving", keep=max(2, config.saving.keep))
        for key, value in chosen.items():
            made = _changed(made, KEYS[key], **{key: value})
        found[label] = made
    return found


def _refuse_alike(tuner: Any, sweep: Mapping[str, Sequence[Any]]) -> None:
    """Raise ConfigError for lists that make no difference."""
    for key, values in sweep.items():
        said = [_said(value) for value in values]
        twice = next((each for each in said if said.count(each) > 1), None)
        if twice is not None:
            raise ConfigError(f"sweep.{key}: expected values that differ, found {twice} twice; take one of them out")
        if KEYS[key] == "tuner" and tuner.start_from is not None:
            raise ConfigError(
                f"sweep.{key}: expected none beside tuner.start_from, whose file says the shape, found "
                f"{', '.join(said)}; take one of the two out"
            )
    if "kernel" in sweep and tuner.kind == "sc":
        raise ConfigError(
            "sweep.kernel: expected none for a style (kind sc), which reads no hints, found "
            f"{', '.join(map(_said, sweep['kernel']))}; take it out"
        )


def train_sweep(
    shared: Run,
    configs: Mapping[str, Any],
    start: str,
    prepare: Callable[[SCTuner | CSCTuner], None] = lambda _: None,
    begun: Callable[[], None] = lambda: None,
) -> Path:
    """Train a tuner for each of `configs` on what `shared` has been prepared with; gives the path of the best.

    Each has a file, a run folder and checkpoints of its own; `sweep.html` in the shared run folder compares them, and
    the best by its last validation, else by its last losses, is copied to the shared output.  One whose loss is no
    longer finite is put aside, and the others continue.

    start:   "never" begins anew, else each resumes from the newest step that all of them have saved.
    prepare: called with each new tuner, before it is trained.  begun: called when earlier runs were put aside.

    Raises Stopped where the run is asked to stop, after all were saved, and TrainingError where all were put aside.
    """
    runs = {label: beside(shared, config, prepare) for label, config in configs.items()}
    sound = {label: run for label, run in runs.items() if start == "never" or not _failure(run)}
    members = sound or dict(runs)
    saved = [label for label, run in members.items() if checkpoints_in(run.folder.checkpoints)]
    anew = resume_together(list(members.values()), anew=start == "never")
    if anew:
        if saved:
            fresh = [label for label in members if label not in saved] or ["not all of them"]
            why = "" if start == "never" else f", since no checkpoint of one step is there for {' and '.join(fresh)}"
            there = os.path.normpath(shared.folder.path)
            message = f"all tuners begin anew{why}; the earlier ones are kept in the folders earlier below {there}"
            shared.events.emit("note", message=message)
        for run in [run for label, run in runs.items() if label not in members]:
            leave_earlier(run)
        members = dict(runs)
    if anew or checkpoints_in(shared.folder.checkpoints):  # a tuner that was there, or a run that was no sweep
        leave_earlier(shared)
        forget_surplus(shared.folder.path)
    begun()
    for run in members.values():
        run.events.emit("plan", **plan(run))
    shared.step = done = next(iter(members.values())).step
    tell_of_nothing_left(shared)
    shared.events.emit("plan", **plan(shared) | {"first_step": done, "tuners": len(members), "swept": list(members)})
    shared.events.emit("remarks", remarks=[remark.values() for remark in shared.remarks])
    measured = shared.config.validation.every
    validations = {
        label: Validation(run.config, run.base, run.data) if measured else None for label, run in runs.items()
    }
    steps = shared.config.loop.steps
    waiting: dict[str, Told] = {}
    try:
        with shared.folder.interruptible():
            for label, run in members.items():
                before_the_first(run, validations[label], None)
        while done < steps:
            with shared.folder.interruptible():
                made = {}
                for label, losses in zip(list(members), passes_together(list(members.values())), strict=True):
                    with _put_aside(shared, members, label):
                        made[label] = apply_update(members[label], losses)
                _tell(shared, members, waiting)  # of the update before, so that the device never waits
                waiting = {label: told for label, told in made.items() if label in members}
                shared.step = done = done + 1
                wish = shared.folder.stop_wish() if done < steps else None
                due = dict(zip(members, due_together(list(members.values()), shared.folder.save_wish()), strict=True))
                if wish or done == steps or any(due.values()):
                    _tell(shared, members, waiting)
                for label, run in members.items():
                    do_what_is_due(run, due[label], validations[label], None)
            if wish:
                raise Stopped(wish)
        for run in members.values():
            finish(run)
    except Stopped:
        _tell(shared, members, waiting)
        for run in members.values():
            save_whole(run)
        raise
    finally:
        for run in runs.values():
            run.events.close()
    rows = [_row(label, run) for label, run in runs.items()]
    best = min((row for row in rows if row["file"]), key=_rank)
    compared = _write(shared.folder.path, rows, best)
    replace_file(shared.config.output, lambda part: shutil.copyfile(best["file"], part))
    said = f"best of {len(rows)}: {best['label']}, loss {_rank(best):.4g}"
    shared.events.emit("note", message=f"{said}; all of them are in {os.path.normpath(compared)}")
    shared.events.emit("finished", step=steps, path=str(shared.config.output))
    return shared.config.output


def due_together(runs: Sequence[Run], asked: bool = False) -> list[set[str]]:
    """What is due of each after an update.  asked: whether a checkpoint is wanted.

    When one is saved all are, since they resume from a step that each of them has saved.
    """
    due = [due_now(run) for run in runs]
    saving = {"save"} if asked or any("save" in each for each in due) else set()
    return [each | saving for each in due]


def _tell(shared: Run, members: dict[str, Run], waiting: dict[str, Told]) -> None:
    """Tell of an update of each of `members`, and of their mean loss; empties `waiting`."""
    losses, step = [], 0
    for label in list(waiting):
        told = waiting.pop(label)
        with _put_aside(shared, members, label):
            tell(members[label], told)
            losses.append(told.read()[0])
            step = told.step
    if losses:
        mean = sum(losses) / len(losses)
        shared.events.emit("step", step=step, steps=shared.config.loop.steps, loss=mean)


@contextlib.contextmanager
def _put_aside(shared: Run, members: dict[str, Run], label: str) -> Iterator[None]:
    """Take a tuner that cannot go on out of `members`.  Raises TrainingError where it was the last of them."""
    try:
        yield
    except TrainingError as error:
        run, why = members.pop(label), str(error).split(";")[0]  # what to do is for a run that ends
        run.events.emit("error", message=why)
        if not members:
            raise
        shared.events.emit("note", message=f"{label} is put aside, the others continue: {why}")


def _failure(run: Run) -> str | None:
    """Why a tuner was put aside, by the end of its log; None where it was not."""
    file = run.folder.path / EVENTS_FILE
    last = (read_events(file) if file.is_file() else [])[-1:]
    return last[0]["message"] if last and last[0]["event"] == "error" else None


def losses_on_the_same(runs: Sequence[Run], piece: int) -> list[Tensor]:
    """Of each run the loss of one of the passes of an update, on the same pictures and hints."""
    batch, problem, hints, masks = posed(runs[0], piece)
    edits = [(run.tuner, 1.0, hints) for run in runs]
    said = runs[0].base.predict(problem.noisy, problem.timesteps, batch.text, batch.sizes, edits, apart=True)
    weights = moved(batch.weights, said.device)
    return [loss_of(each, problem, masks, weights) for each in said.chunk(len(runs))]


def passes_together(
    runs: Sequence[Run], losses: Callable[[Sequence[Run], int], list[Tensor]] = losses_on_the_same
) -> list[tuple[Tensor, ...]]:
    """The forward and backward passes of one update of each; gives the losses of each, as `loop.passes` does."""
    passes = []
    for piece in range(runs[0].config.loop.accumulate):
        found = losses(runs, piece)
        scaled = [run.scaler.scale(loss) for run, loss in zip(runs, found, strict=True)]
        runs[0].accelerator.backward(torch.stack(scaled).sum())  # no tuner has a part in another's loss
        passes.append([loss.detach() for loss in found])
    return list(zip(*passes, strict=True))


def beside(shared: Run, config: Any, prepare: Callable[[SCTuner | CSCTuner], None]) -> Run:
    """A run with a tuner of its own on the base and the pictures of another."""
    tuner = new_tuner(config.tuner, shared.base.layout, config.loop.seed).to(shared.accelerator.device)
    prepare(tuner)
    folder = RunFolder(config.run_folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    return replace(
        shared,
        config=config,
        folder=folder,
        events=Events([EventLog(folder.path / EVENTS_FILE)]),
        step=0,
        best=None,
        saved=None,
        **changing(tuner, config.loop, shared.scaler.is_enabled()),
    )


def resume_together(runs: Sequence[Run], anew: bool) -> bool:
    """All go back to the newest step that each of them has saved whole, or begin anew; what they leave is put aside.

    Whether they begin anew.
    """
    step = None if anew else _newest_whole(runs)
    if step is not None:
        for run in runs:  # all before anything is moved, since a checkpoint may be refused
            run.restore(run.folder.checkpoints / step)
    for run in runs:
        if step is None:
            leave_earlier(run)
        else:
            leave_later(run)
    return step is None


def _newest_whole(runs: Sequence[Run]) -> str | None:
    """The name of the newest checkpoint that each of `runs` has and that can be read."""
    steps = [{path.name for path in checkpoints_in(run.folder.checkpoints)} for run in runs]
    for name in sorted(set.intersection(*steps), reverse=True):
        for run in runs:
            try:
                load_checkpoint(run.folder.checkpoints / name)
            except TrainingError as error:
                run.events.emit("note", message=str(error))
                break
        else:
            return name
    return None


def _row(label: str, run: Run) -> dict[str, Any]:
    """What is said of a tuner, by its log: the losses of the weights in its file, whenever they were trained.

    Of one that was put aside: why, and how many steps it had.
    """
    events = latest_run_of_steps(read_events(run.folder.path / EVENTS_FILE))
    measured = [e["loss_with"] for e in events if e["event"] == "validation"]
    steps = [e for e in events if e["event"] == "step"]
    recent = 0.0
    for i, event in enumerate(steps):
        recent += max(_RECENT, 1 / (i + 1)) * (event["loss"] - recent)
    failure = _failure(run)
    return {
        "label": label,
        "file": None if failure else str(run.config.output),
        "loss": None if failure else measured[-1] if measured else recent,
        "measured": "held-out pictures" if measured and run.data.unseen else "the pictures" if measured else "training",
        "steps": steps[-1]["step"] if steps else 0,
        "parameters": sum(p.numel() for p in run.tuner.parameters()),
        "failed": failure,
    }


def _rank(row: dict[str, Any]) -> float:
    return math.inf if row["loss"] is None else row["loss"]


def _write(folder: Path, rows: list[dict[str, Any]], best: dict[str, Any]) -> Path:
    """The comparison, for people and for programs; gives that for people."""
    told = []
    for row in sorted(rows, key=_rank):
        loss = "" if row["loss"] is None else f"{row['loss']:.5f}"
        made = row["failed"] or Path(row["file"]).name
        cells = [element("td", each) for each in (row["label"], loss, f"{row['parameters']:,}", made)]
        told.append(("best" if row is best else "", cells))
    by = f"Best: {best['label']}, by its loss on {best['measured']}."
    shown = table(("tuner", "loss", "parameters", "file"), told)
    whole = page("Sweep", [element("h1", "Sweep"), element("p", by), shown], None)
    result = json.dumps({"best": best["label"], "tuners": rows}, indent=1)
    for name, text in ((REPORT_FILE, whole), (RESULT_FILE, result)):
        replace_file(folder / name, lambda part, text=text: part.write_text(text, "utf-8"))
    return folder / REPORT_FILE


def _changed(config: Any, section: str, **values: Any) -> Any:
    """The settings with some values of a section replaced, of either kind."""
    if section:
        return _changed(config, "", **{section: _changed(getattr(config, section), "", **values)})
    return replace(config, **values) if is_dataclass(config) else config.model_copy(update=values)


def _place(config: Any, name: str) -> dict[str, Path]:
    return {"run_folder" if is_dataclass(config) else "run": config.run_folder / name}


def _said(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
