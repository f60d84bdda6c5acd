"""How long a run is: updates, epochs or minutes; and what there is before its first update."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import events, run_folder, stop_after, train

from scedit_core.errors import ConfigError
from scedit_core.fitting import loop as fitting
from scedit_core.fitting.budget import Budget, updates_within
from scedit_core.fitting.checkpoints import checkpoints_in, load_checkpoint
from training import length
from training.config_file import load_config, parse_config


@pytest.fixture
def quiet(values, unwatched) -> dict:
    del values["loop"]["steps"], values["loop"]["warmup"]
    return values


def updates_of(seconds: float, monkeypatch) -> None:
    """Have an update take that long, by the clock of the budget."""
    monkeypatch.setattr(length, "_seconds_of_an_update", lambda run: seconds)


def test_epochs_are_as_many_updates_as_see_each_picture_so_often(quiet, pictures_folder):
    pictures = len(list(pictures_folder.glob("*.txt")))
    quiet["loop"] |= {"epochs": 0.75, "batch": 2, "accumulate": 2}
    quiet["data"]["repeats"] = 3  # which are seen three times in each round
    assert train(quiet) is not None
    (plan,) = events(quiet, "plan")
    assert plan["steps"] == math.ceil(0.75 * 3 * pictures / 4)
    assert plan["epochs"] == pytest.approx(plan["steps"] * 4 / (3 * pictures))
    written = load_config(run_folder(quiet) / "config.yaml")  # which can be run again
    assert written.loop.steps == plan["steps"]
    assert written.loop.epochs is None


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        ({"steps": 5, "minutes": 3}, "expected one of steps, epochs and minutes, found steps and minutes"),
        ({"epochs": 5, "minutes": 3}, "found epochs and minutes"),
        ({"minutes": 0}, "loop.minutes: Input should be greater than 0"),
        ({"epochs": -1}, "loop.epochs: Input should be greater than 0"),
    ],
)
def test_two_lengths_and_none_are_refused(quiet, loop, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        parse_config(quiet | {"loop": loop})
    assert "\n" not in str(refusal.value)


def test_what_has_to_know_its_updates_beforehand_refuses_minutes(quiet):
    for key, value in (("sweep", {"ratio": [1.0, 2.0]}),):
        with pytest.raises(ConfigError, match=f"loop.steps or loop.epochs with {key}"):
            parse_config(quiet | {"loop": {"minutes": 3}, key: value})
    shards = {"shards": "a.tar", "resolution": 64}
    with pytest.raises(ConfigError, match=r"expected loop.steps or loop.minutes for shards"):
        parse_config(quiet | {"loop": {"epochs": 3}, "data": shards})


def test_a_budget_is_the_run_of_its_number_of_updates(quiet, monkeypatch, tmp_path):
    """Minutes become a number of updates before the first of them: the run is then one of that number, bit for bit."""
    updates_of(6.0, monkeypatch)
    quiet["loop"] |= {"minutes": 1.0, "learning_rate": 1e-2}
    found = load_file(train(quiet))
    steps = int(0.97 * 60 / 6)
    assert [event["step"] for event in events(quiet, "step")] == list(range(1, steps + 1))
    assert events(quiet, "plan")[-1]["minutes"] == 1.0
    counted = {**quiet, "output": str(tmp_path / "counted.safetensors")}
    counted["loop"] = {"steps": steps, **{k: v for k, v in quiet["loop"].items() if k != "minutes"}}
    expected = load_file(train(counted))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert train(quiet) is not None  # and there is nothing more to train
    assert len(events(quiet, "step")) == steps


def test_a_stopped_budget_resumes_with_the_same_number_of_updates(quiet, monkeypatch, tmp_path):
    updates_of(6.0, monkeypatch)
    quiet["loop"] |= {"minutes": 1.0, "learning_rate": 1e-2}
    whole = load_file(train(quiet | {"output": str(tmp_path / "whole.safetensors")}))
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        assert train(quiet) is None
    updates_of(100.0, monkeypatch)  # a busy machine
    found = load_file(train(quiet))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_more_minutes_are_more_updates(quiet, monkeypatch):
    updates_of(6.0, monkeypatch)
    quiet["loop"]["minutes"] = 0.5
    train(quiet)
    first = len(events(quiet, "step"))
    quiet["loop"]["minutes"] = 1.0
    train(quiet)
    assert first == 4
    spent = load_checkpoint(checkpoints_in(run_folder(quiet) / "checkpoints")[-1])[0].parts["budget"]["spent"]
    assert 0 < spent < 20
    assert 4 + 8 <= len(events(quiet, "step")) <= 4 + 9  # what is left of the minute


def test_the_time_ends_the_run_where_it_is_slower_than_it_was_measured(quiet, monkeypatch):
    updates_of(0.05, monkeypatch)
    quiet["loop"] |= {"minutes": 2 / 60}
    original = fitting.update

    def update(run):
        time.sleep(0.5)
        return original(run)

    monkeypatch.setattr(fitting, "update", update)
    path = train(quiet)
    assert path == Path(quiet["output"])
    assert path.is_file()
    done = events(quiet, "step")[-1]["step"]
    assert 2 <= done <= 5
    assert events(quiet, "finished")
    assert f"minutes are over after {done} updates of 38" in events(quiet, "note")[-1]["message"]
    monkeypatch.setattr(fitting, "update", original)
    before = load_file(path)
    train(quiet)
    assert len(events(quiet, "step")) == done
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(path).items())


def test_measuring_the_pace_trains_nothing(quiet, monkeypatch):
    quiet["loop"] |= {"minutes": 60.0}
    seen = []

    def update(run):
        seen.extend(
            [run.config.loop.steps, run.step, *(adapter.up.weight.abs().max() for adapter in run.tuner.tuners.values())]
        )
        (run.folder.path / "stop").touch()
        return original(run)

    original = fitting.update
    monkeypatch.setattr(fitting, "update", update)
    assert train(quiet) is None
    assert seen[0] > 100  # of updates that take a fraction of a second
    assert max(seen[1:]) == 0


def test_previews_and_validation_are_counted(values):
    config = parse_config(values | {"validation": {"every": 10, "images": 4, "timesteps": 2}, "previews": {"every": 0}})
    # a picture's forward pass takes a half of a quarter of a second; 8 of them each 10 updates, and 16 besides
    assert updates_within(config, 100, 0.5) == int((97 - 16 * 0.125) / (0.5 + 0.1))
    assert updates_within(config, 0.001, 0.5) == 1


def test_a_budget_counts_its_own_time_alone():
    now = [100.0]
    budget = Budget(1.0, lambda: now[0])
    now[0] = 130.0
    budget.start()
    now[0] = 150.0
    assert (budget.spent, budget.left) == (20, 40)
    budget.steps = 7
    later = Budget(1.0, lambda: now[0])
    now[0] = 1000.0
    later.take(budget.state_dict() | {"spent": 20.0})
    now[0] = 1010.0
    assert (later.spent, later.steps) == (30, 7)
    longer = Budget(2.0, lambda: now[0])
    longer.take(budget.state_dict())
    assert longer.steps is None


@pytest.mark.parametrize("first", [False, True])
def test_before_the_first_update(values, first):
    values["loop"] |= {"steps": 2, "learning_rate": 1e-2}
    values["tensorboard"] = False
    values["validation"] = {"every": 2, "images": 2, "timesteps": 2, "first": first}
    values["previews"] = {"every": 2, "count": 1, "steps": 2, "first": first}
    train(values)
    expected = [0, 2] if first else [2]
    assert [e["step"] for e in events(values, "validation")] == expected
    assert [e["step"] for e in events(values, "preview")] == expected
    pictures = run_folder(values) / "previews" / "pictures"
    assert (pictures / "step-000000-0.jpg").exists() == first
    if first:
        begun = events(values, "validation")[0]
        assert begun["loss_with"] == begun["loss_without"]  # a fresh tuner changes nothing
        assert (pictures / "step-000000-0.jpg").read_bytes() == (pictures / "without-0.jpg").read_bytes()
        assert (pictures / "step-000002-0.jpg").read_bytes() != (pictures / "without-0.jpg").read_bytes()


def test_a_tuner_to_begin_with_is_drawn_and_measured_as_it_is(values, tmp_path):
    values["tensorboard"], values["validation"], values["previews"] = False, {"every": 0}, {"every": 0}
    values["loop"] |= {"steps": 2, "learning_rate": 1e-2}
    values["tuner"]["start_from"] = str(train(values | {"output": str(tmp_path / "earlier.safetensors")}))
    values["validation"] = {"every": 2, "images": 2, "timesteps": 2, "first": True}
    values["previews"] = {"every": 2, "count": 1, "steps": 2, "first": True}
    train(values)
    begun = events(values, "validation")[0]
    assert begun["loss_with"] != begun["loss_without"]
    pictures = run_folder(values) / "previews" / "pictures"
    assert (pictures / "step-000000-0.jpg").read_bytes() != (pictures / "without-0.jpg").read_bytes()
