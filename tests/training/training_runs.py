"""Short runs in this process, and what they leave behind; for the tests of what a run keeps."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from scedit_core.fitting import loop as fitting
from scedit_core.fitting.checkpoints import checkpoints_in, load_checkpoint
from training import loop
from training.config_file import parse_config


def train(values: dict, **options) -> Path | None:
    return loop.train(parse_config(values), Console(quiet=True), **options)


def run_folder(values: dict) -> Path:
    return Path(values.get("run") or Path(values["output"]).with_suffix(".run"))


def events(values: dict, kind: str) -> list[dict]:
    lines = (run_folder(values) / "events.jsonl").read_text("utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def steps_kept(folder: Path) -> list[int]:
    """The steps of the checkpoints in a run folder that are whole."""
    return [load_checkpoint(path)[0].step for path in checkpoints_in(folder / "checkpoints")]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its place in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stop_after(step: int, monkeypatch) -> None:
    """Have a stop file made in that step."""
    original = fitting.update

    def update(run):
        done = original(run)
        if run.step == step:
            (run.folder.path / "stop").touch()
        return done

    monkeypatch.setattr(fitting, "update", update)
