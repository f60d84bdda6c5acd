"""A run with everything switched on: stopped and resumed it ends in the same bits, and its report has all of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import events, run_folder, stop_after, train

from scedit_core.errors import ConfigError
from scedit_core.fitting.checkpoints import checkpoints_in, load_checkpoint


def everything(values: dict) -> dict:
    """A control of 12 updates, of which each key of loop and objective that there is has a say."""
    values["tuner"] = {"kind": "csc", "stem_width": 32}
    pictures, second = Path(values["data"]["folder"]), Path(values["output"]).parent.with_name("second")
    shutil.copytree(pictures, second)
    for file in second.glob("*.txt"):
        file.write_text("zwx, a {red|blue} star, night, paper, " + file.stem)
    wording = {"wildcards": True, "shuffle_tags": True, "keep_tags": 1, "drop_tags": 0.3, "variants": 3}
    values["data"] = {
        **{"resolution": 64, "condition": {"type": "canny"}, "flip": True, "wording": wording},
        "folders": [{"folder": str(pictures), "repeats": 2, "caption": "x,"}, {"folder": str(second), "weight": 0.5}],
    }
    values["loop"] = {
        **{"epochs": 1.5, "batch": 1, "accumulate": 2, "precision": "fp32", "seed": 3},
        **{"optimizer": "adamw", "optimizer_arguments": {"betas": [0.8, 0.95], "eps": "1e-7"}},
        **{"learning_rate": 1e-2, "warmup": 2, "schedule": "cosine", "restarts": 1, "ema": 0.9},
        "block_rates": {"0-2": 0.5, 5: 0, 8: 2.0, "hint": 0.25},
    }
    values["objective"] = {
        **{"weighting": "debiased", "timestep_range": [100, 900], "timestep_sampling": "high"},
        **{"loss": "huber", "huber_delta": 0.2, "huber_schedule": "falling", "noise_offset": 0.05},
        **{"caption_dropout": 0.5, "condition_dropout": 0.3},
    }
    values["saving"] = {"every": 3, "keep": 9, "tuners": 4}
    values["previews"] = {"every": 6, "count": 1, "steps": 2, "first": True}
    values["validation"] = {"every": 4, "images": 2, "timesteps": 2, "first": True}
    values["tensorboard"] = False
    return values


def test_stopped_twice_it_ends_in_the_same_bits_and_tells_all_of_it(values, pictures_folder, tmp_path, monkeypatch):
    values = everything(values)
    whole = load_file(train(values | {"output": str(tmp_path / "out" / "whole.safetensors")}))
    rows = 3 * len(list(pictures_folder.glob("*.txt")))  # one folder twice, the other once
    steps = -(-3 * rows // 4)  # 1.5 epochs in updates of two pictures
    for step in (1, 5):
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            assert train(values) is None
    found = load_file(train(values))
    assert [event["steps"] for event in events(values, "plan")] == [steps] * 3
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert found["tuners.8.up.weight"].abs().max() > 1e-3  # it did learn
    assert found["tuners.5.up.weight"].abs().max() == 0  # but for what is frozen
    kept = {event["step"] for event in events(values, "tuner")}
    assert kept == {1, 5, *range(4, steps, 4)}
    state, raw, mean = load_checkpoint(checkpoints_in(run_folder(values) / "checkpoints")[-1])
    assert state.step == steps
    delivered = found["tuners.8.up.weight"].flatten()
    assert torch.equal(mean.state_dict()["tuners.8.up.weight"].flatten(), delivered)
    assert not torch.equal(raw.state_dict()["tuners.8.up.weight"].flatten(), delivered)
    report = (run_folder(values) / "report.html").read_text("utf-8")
    for words in ("Tuners on the way", "tuner-step-000004.safetensors", "found again in the", "trained on"):
        assert words in report
    for words in ("timestep_sampling: high", "restarts: 1", "huber_schedule: falling", "0-2: 0.5"):
        assert words in report  # its configuration


def test_another_value_of_any_of_them_is_another_run(values):
    """What the numbers depend on cannot be changed in mid-run without a word."""
    values = everything(values) | {"previews": {"every": 0}, "validation": {"every": 0}}
    values["loop"]["epochs"] = 0.5
    train(values)
    changes = {
        "loop": {"restarts": 0, "block_rates": {"hint": 0.25}, "optimizer_arguments": {}},
        "objective": {"loss": "squared", "timestep_range": None, "timestep_sampling": "low", "huber_delta": 0.3},
    }
    for section, each in changes.items():
        for key, value in each.items():
            changed = {**values[section], key: value}
            if key == "loss":  # without those that are for huber alone
                changed = {name: each for name, each in changed.items() if not name.startswith("huber")}
            with pytest.raises(ConfigError, match=rf"found other values for .*{section}\.{key} \("):
                train({**values, section: changed, "saving": {"every": 3}})
