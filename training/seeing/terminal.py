"""How a run is seen in a terminal: bars that move, or plain lines where there is none."""

from __future__ import annotations

import os
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from scedit_core.fitting.pace import duration
from scedit_core.fitting.report import REPORT_FILE
from scedit_core.fitting.verdict import verdict

from ..config import TrainConfig

_SECONDS_BETWEEN_LINES = 15
_WIDE = 110  # letters, from which there is room for a long bar
_SIZES = 6  # of pictures, that are named
_GAPS = 3  # letters between the parts of a bar
_SMOOTHING = 0.05  # of the loss shown: a running mean over about twenty steps


def shown(path: str) -> str:
    """A path as it is shortest from here."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # on another drive of Windows
        return os.path.normpath(path)
    return near if not near.startswith(os.pardir + os.sep + os.pardir) else os.path.abspath(path)


class Terminal:
    """Shows events on `console`.  Errors are left to the command line, which prints their sentence."""

    def __init__(self, config: TrainConfig, console: Console) -> None:
        self.title = config.tuner.kind.upper() + "-Tuner"
        self._console, self._folder = console, config.run_folder
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12 if console.width >= _WIDE else 8),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said = self._start = time.monotonic()
        self._loss, self._steps_seen = 0.0, 0
        self._validations: list[dict[str, Any]] = []

    def take(self, event: dict[str, Any]) -> None:
        """Show one event."""
        show = getattr(self, f"_show_{event['event']}", None)
        if show is not None:
            show(event)

    @property
    def _report(self) -> str:
        return shown(str(self._folder / REPORT_FILE))

    def close(self) -> None:
        """Take the bars away."""
        self._bars.stop()

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _advance(self, task: str, done: int, total: int, told: list[str]) -> None:
        """Move a bar; without a terminal, say it now and then, and at the end.

        told: what stands behind it, the most important first; the rest is left out where the terminal is narrow.
        """
        if task not in self._tasks:
            self._bars.start()
            self._tasks[task] = self._bars.add_task(task, total=total, told="")
        bar = self._bars.columns[1].bar_width
        room = self._console.width - len(task) - bar - len(f"{total}/{total}") - _GAPS
        fits = max((n for n in range(len(told) + 1) if len(", ".join(told[:n])) <= room), default=0)
        self._bars.update(self._tasks[task], completed=done, total=total, told=", ".join(told[:fits]))
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._said > _SECONDS_BETWEEN_LINES or done == total):
            self._said = now
            self._say(", ".join([f"{task}: {done} of {total}", *told]))

    def _show_plan(self, event: dict[str, Any]) -> None:
        self._start = time.monotonic()
        nature = [str(event[k]) for k in ("family", "prediction", "precision", "device") if event.get(k) is not None]
        what = self.title + (f" for {event['condition']}" if event.get("condition") else "")
        if event.get("parameters") is not None:
            what += f" of {event['parameters'] / 1e6:.2f} M parameters"
        if event.get("blocks") is not None:
            what += f" on {event['blocks']} of {event['skips']} skips"
        self._say(f"base {event['base']}{' (' + ', '.join(nature) + ')' if nature else ''}, {what}")
        often = f" ({event['epochs']:.1f} epochs)" if event.get("epochs") is not None else ""
        size = f" at {event['resolution']} px" if event.get("resolution") is not None else ""
        on = f"; resumes from step {event['first_step']}" if event.get("first_step") else ""
        images = "images in shards" if event.get("images") is None else f"{event['images']} images"
        self._say(f"{images}{size}, {event['steps']} updates of {event['batch']} images{often}{on}")
        if event.get("minutes") is not None:
            self._say(f"{event['minutes']:g} minutes, of which that number of updates is the estimate")
        if event.get("learning_rate") is not None:
            warmup = f", {event['warmup']} updates of warmup" if event.get("warmup") else ", no warmup"
            restarts = f" with {event['restarts']} restarts" if event.get("restarts") else ""
            rate = f"rate {event['learning_rate']:.1e} ({event['schedule']}{restarts}{warmup})"
            self._say(f"{event['optimizer']}, {rate}")
        if event.get("swept"):
            self._say(f"a sweep of {len(event['swept'])} tuners, in place of that: {'; '.join(event['swept'])}")
        if event.get("buckets"):
            shown = [f"{width}x{height}: {count}" for width, height, count in event["buckets"][:_SIZES]]
            more = f", and {len(event['buckets']) - _SIZES} more" if len(event["buckets"]) > _SIZES else ""
            self._say(f"sizes {', '.join(shown)}{more}")
        if event.get("teacher"):
            told = dict(event["teacher"])
            name = told.pop("name")
            phases = ", then ".join(f"{updates} of {phase}" for phase, updates in told.items() if updates)
            self._say(f"taught by {name}: {phases}")

    def _show_remarks(self, event: dict[str, Any]) -> None:
        for remark in event["remarks"]:
            self._say(f"- {remark['text']}")

    def _show_caching(self, event: dict[str, Any]) -> None:
        hits, misses = event.get("hits"), event.get("misses")
        told = [] if hits is None else [f"{hits} from the cache, {misses} made"]
        self._advance("caching", event["done"], event["total"], told)

    def _show_step(self, event: dict[str, Any]) -> None:
        self._steps_seen += 1
        loss = event.get("loss")
        if loss is not None:
            self._loss += max(1 / self._steps_seen, _SMOOTHING) * (loss - self._loss)
        told = [f"loss {self._loss:.4f}"]
        if event.get("eta_seconds") is not None:
            told.append(f"{duration(event['eta_seconds'])} left")
        told.append(f"{duration(time.monotonic() - self._start)} so far")
        for key, text in (
            ("skipped", "{} updates skipped"),
            ("learning_rate", "lr {:.1e}"),
            ("images_per_second", "{:.1f} images/s"),
            ("memory_mib", "{:.0f} MiB"),
        ):
            if event.get(key):
                told.append(text.format(event[key]))
        self._advance(self.title, event["step"], event["steps"], told)

    def _show_preview(self, event: dict[str, Any]) -> None:
        pairs = (("with", "with the tuner"), ("without", "without"), ("teacher", "with the ControlNet"))
        told = [f"{event[f'edge_f1_{key}']:.2f} {text}" for key, text in pairs if f"edge_f1_{key}" in event]
        followed = f"; edges follow the hints by {', '.join(told)} (F1)" if told else ""
        self._say(f"step {event['step']}: preview {shown(event['path'])}{followed}")

    def _show_validation(self, event: dict[str, Any]) -> None:
        told = [f"{event['loss_with']:.4f} with the tuner", f"{event['loss_without']:.4f} without"]
        if event.get("loss_other_hint") is not None:
            told.append(f"{event['loss_other_hint']:.4f} with it and another picture's hint")
        if event.get("loss_teacher") is not None:
            told.append(f"{event['loss_teacher']:.4f} with the ControlNet")
        if event.get("loss_trained") is not None:
            told.append(f"{event['loss_trained']:.4f} with it on pictures that are trained on")
        self._say(f"step {event['step']}: validation loss {', '.join(told)}")
        self._validations.append(event)

    def _show_tuner(self, event: dict[str, Any]) -> None:
        self._say(f"step {event['step']}: tuner {shown(event['path'])}")

    def _show_saved(self, event: dict[str, Any]) -> None:
        self._say(f"step {event['step']}: saved {shown(event['path'])}")

    def _show_stopped(self, event: dict[str, Any]) -> None:
        self._bars.stop()
        where = f"at step {event['step']} " if event.get("step") is not None else ""
        same = "the same command" + ("" if event.get("resume") in (None, "auto", "latest") else " without --resume")
        self._say(f"stopped {where}({event['reason']}); {same} resumes from here; report {self._report}")

    def _show_finished(self, event: dict[str, Any]) -> None:
        self._bars.stop()
        if self._validations:
            self._say(verdict(self._validations))
        took = duration(time.monotonic() - self._start)
        self._say(f"finished in {took}: tuner {shown(event['path'])}, report {self._report}")

    def _show_note(self, event: dict[str, Any]) -> None:
        self._say(f"note: {event['message']}")
