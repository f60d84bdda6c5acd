"""A run is the same run by what it trains: wherever it lies, from wherever it is started, and whoever saved it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from training_runs import events, steps_kept

from scedit_core.errors import ConfigError
from scedit_core.fitting.checkpoints import checkpoints_in
from training import loop
from training.config_file import load_config


@pytest.fixture
def project(tmp_path, tiny) -> Path:
    """A folder with a base, pictures and a configuration of two steps whose paths are relative."""
    folder = tmp_path / "project"
    tiny.write_tiny_base(folder / "base")
    tiny.write_drawn_pictures(folder / "pictures", 4)
    values = {
        "base": "base",
        "output": "tuner.safetensors",
        "tuner": {"kind": "sc"},
        "data": {"folder": "pictures", "resolution": 64, "captions": "optional"},
        "loop": {"steps": 2, "batch": 2, "warmup": 0, "precision": "fp32", "learning_rate": 1e-3},
        "saving": {"every": 1},
        "tensorboard": False,
        "previews": {"every": 0},
        "validation": {"every": 0},
    }
    (folder / "run.yaml").write_text(json.dumps(values))
    return folder


def train(config: str | Path, **changed) -> Path | None:
    """Train as a file says, with values of its sections changed in the file."""
    path = Path(config)
    values = json.loads(path.read_text())
    for name, value in changed.items():
        section, _, key = name.partition("_")
        if key:
            values[section][key] = value
        else:
            values[name] = value
    path.write_text(json.dumps(values))
    return loop.train(load_config(path), Console(quiet=True))


def first_steps(project: Path) -> list[int]:
    return [e["first_step"] for e in events({"output": str(project / "tuner.safetensors")}, "plan")]


def test_from_another_folder_after_a_move_and_under_other_names(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    train("run.yaml")
    monkeypatch.chdir(tmp_path)
    train("project/run.yaml", loop_steps=3)  # from elsewhere
    moved = project.rename(tmp_path / "moved")
    train(moved / "run.yaml", loop_steps=4)  # as a whole
    (moved / "pictures").rename(moved / "photos")
    (moved / "base").rename(tmp_path / "models")
    train(moved / "run.yaml", loop_steps=5, data_folder="photos", base=str(tmp_path / "models"))
    assert first_steps(moved) == [0, 2, 3, 4]
    assert not (moved / "tuner.run" / "earlier").exists()


def test_the_shape_of_the_tuner_in_other_words(project):
    train(project / "run.yaml")
    values = json.loads((project / "run.yaml").read_text())
    values["tuner"] = {"kind": "sc", "ratio": 1.001, "blocks": list(range(9))}  # 32 hidden channels as well
    values["loop"]["steps"] = 3
    (project / "run.yaml").write_text(json.dumps(values))
    train(project / "run.yaml")
    assert first_steps(project) == [0, 2]


def test_changed_pictures_are_told_and_others_are_another_run(project, tmp_path, tiny):
    train(project / "run.yaml")
    first = next((project / "pictures").glob("*.txt"))
    first.write_text("another caption")
    shutil.copyfile(first.with_suffix(".png"), project / "pictures" / "new.png")
    train(project / "run.yaml", loop_steps=3)
    notes = [e["message"] for e in events({"output": str(project / "tuner.safetensors")}, "note")]
    assert "resumes from step 2 with 2 new and 1 gone of the pictures or captions since then" in notes
    tiny.write_drawn_pictures(tmp_path / "others", 5)
    for path in (tmp_path / "others").glob("*.txt"):
        path.write_text(f"others {path.stem}")
    with pytest.raises(ConfigError, match=r"found other values for all 5 pictures; set them back, start anew with"):
        train(project / "run.yaml", data_folder=str(tmp_path / "others"), loop_steps=4)
    assert steps_kept(project / "tuner.run") == [2, 3]


def test_another_base_under_the_same_name_is_another_run(project):
    train(project / "run.yaml")
    weights = next((project / "base" / "unet").glob("*.safetensors"))
    from safetensors.torch import save_file

    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"found other values for base \(another file\)"):
        train(project / "run.yaml", loop_steps=3)


def as_before(checkpoint: Path, project: Path, **changed) -> None:
    """Make of a checkpoint one that was saved before digests were kept, with the paths that it had then."""
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    state.pop("files"), state.pop("contents")
    state["config"] |= {"base": str(project / "base"), "prediction": "auto", **changed}
    state["config"]["data"] |= {"folder": "elsewhere/pictures", "shards": None, "hints": None, "masks": None}
    state["config"]["data"] |= {"bad_files": "skip"}
    state["config"]["tuner"]["start_from"] = None
    state["config"]["loop"]["warmup"] = 0
    state["config"]["validation"]["folder"] = None
    torch.save(state, checkpoint / "state.pt")


@pytest.mark.parametrize("case", ["same", "another base", "other pictures"])
def test_checkpoints_from_before_digests_were_kept(project, case):
    train(project / "run.yaml")
    for checkpoint in checkpoints_in(project / "tuner.run" / "checkpoints"):
        as_before(checkpoint, project)
    if case == "another base":
        (project / "base").rename(project / "other")
        with pytest.raises(ConfigError, match=r"base \(base before, other now\)"):
            train(project / "run.yaml", base="other", loop_steps=3)
        return
    if case == "other pictures":
        next((project / "pictures").glob("*.txt")).write_text("another caption")
    train(project / "run.yaml", loop_steps=3)
    assert first_steps(project) == [0, 2]
    notes = [e["message"] for e in events({"output": str(project / "tuner.safetensors")}, "note")]
    assert any("other pictures or captions" in note for note in notes) == (case == "other pictures")


def test_a_clock_that_was_set_back(project):
    """Nothing goes by the time: checkpoints by their steps, earlier runs by their number, the report adds no hours."""
    from scedit_core.fitting.report import _seconds_of

    train(project / "run.yaml")
    for path in (project / "tuner.run").rglob("*"):
        os.utime(path, (4e9, 4e9))  # as if all were of the year 2096
    train(project / "run.yaml", loop_steps=3)
    assert first_steps(project) == [0, 2]
    assert steps_kept(project / "tuner.run") == [2, 3]
    times = ["2026-01-01T12:00:00+00:00", "2026-01-01T12:00:05+00:00", "2026-01-01T09:00:00+00:00"]
    assert _seconds_of([{"time": time} for time in times]) == 5
