"""Optimisers by name, their own arguments, rates of single blocks, and schedules with restarts."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_runs import events, run_folder, stop_after, train

from scedit_core import load_tuner
from scedit_core.errors import ConfigError
from scedit_core.fitting.checkpoints import checkpoints_in, load_checkpoint
from scedit_core.fitting.optimizers import KINDS
from scedit_core.fitting.optimizing import build_optimizer, check_optimizer, own_mean, rate_factor
from scedit_core.fitting.settings import LoopSettings
from training.config_file import parse_config

INSTALLED = [name for name, kind in KINDS.items() if importlib.util.find_spec(kind.module.split(".")[0])]
MISSING = sorted(set(KINDS) - set(INSTALLED))


@pytest.fixture
def quiet(values, unwatched) -> dict:
    return values


def fit(loop: LoopSettings, updates: int = 300) -> tuple[float, float]:
    """The loss before and after fitting a matrix of hundredths to one."""
    draw = torch.Generator().manual_seed(0)
    wanted = 0.01 * torch.randn(16, 16, generator=draw)
    weight = nn.Parameter(torch.zeros(16, 16))
    optimizer = build_optimizer([weight], loop)
    losses = []
    for _ in range(updates):
        loss = ((weight - wanted) @ torch.randn(16, 32, generator=draw)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], sum(losses[-20:]) / 20


@pytest.mark.parametrize("name", INSTALLED)
def test_an_optimiser_learns_at_the_rate_that_it_has_by_default(name):
    before, after = fit(LoopSettings(optimizer=name, warmup=0))
    assert after < before / 2


def test_the_small_ones_are_installed_here():
    assert {"adamw", "prodigy", "schedulefree_adamw", "came", "adafactor"} <= set(INSTALLED)


@pytest.mark.skipif(not MISSING, reason="every optimiser is installed")
@pytest.mark.parametrize("name", MISSING)
def test_one_that_is_not_installed_is_told_with_what_to_type(quiet, name):
    quiet["loop"]["optimizer"] = name
    with pytest.raises(ConfigError, match=rf"`python -m pip install {KINDS[name].package}` or choose adamw") as refusal:
        train(quiet)
    assert "\n" not in str(refusal.value)
    assert not run_folder(quiet).exists()  # told before anything is loaded


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        ({"optimizer": "adamm"}, "expected one of adamw, adam, .*found 'adamm'"),
        ({"optimizer_arguments": {"beta": 0.9}}, "arguments of adamw .*betas.*found beta"),
        ({"optimizer_arguments": {"lr": 0.9}}, "set loop.learning_rate instead"),
        ({"optimizer_arguments": {"weight_decay": 0.9}}, "set loop.weight_decay instead"),
        ({"optimizer_arguments": {"rate": 0.9}}, "arguments of adamw .*betas.*found rate"),
        ({"optimizer_arguments": {"betas": [3, 0.9]}}, "values that adamw can use"),
        ({"optimizer_arguments": {"betas": [0.9]}}, "values that adamw can use"),
        ({"optimizer": "adafactor", "optimizer_arguments": {"clip_threshold": "high"}}, "values that adafactor can us"),
        ({"learning_rate": float("inf")}, "loop.learning_rate: Input should be a finite number, found inf"),
        ({"optimizer": "schedulefree_adamw", "ema": 0.9}, "loop.ema: expected none with schedulefree_adamw"),
        ({"optimizer": "schedulefree_adamw", "schedule": "cosine"}, "loop.schedule: expected constant"),
        ({"schedule": "constant", "restarts": 2}, "loop.restarts: expected 0"),
        ({"block_rates": {"a": 1}}, "loop.block_rates: expected numbers of blocks"),
        ({"block_rates": {"5-2": 1}}, "loop.block_rates: expected numbers of blocks"),
        ({"block_rates": {3: -1}}, "greater than or equal to 0"),
        ({"optimizer": "prodigy", "block_rates": {3: 0.5}}, "expected 0 or 1 with prodigy"),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(values, loop, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        check_optimizer(parse_config(values | {"loop": loop}).loop)
    assert "\n" not in str(refusal.value)


def test_blocks_that_are_not_trained_have_no_rate(quiet):
    quiet["tuner"]["blocks"] = [0, 1]
    for key, found in (("7", "7"), ("hint", "hint"), ("0-2", "2")):
        quiet["loop"]["block_rates"] = {key: 0.5}
        with pytest.raises(ConfigError, match=rf"expected blocks that are trained \(0, 1\), found {found}"):
            train(quiet)
    quiet["loop"]["block_rates"] = {"0-1": 0}
    with pytest.raises(ConfigError, match="expected a rate above 0 for one block at least"):
        train(quiet)


def test_arguments_reach_the_optimiser_with_numbers_that_yaml_takes_for_text():
    made = build_optimizer(
        [nn.Parameter(torch.zeros(2))], LoopSettings(optimizer_arguments={"betas": [0.5, 0.75], "eps": "1e-5"})
    )
    (group,) = made.param_groups
    assert (tuple(group["betas"]), group["eps"], group["lr"], group["weight_decay"]) == ((0.5, 0.75), 1e-5, 1e-4, 0.01)


def test_a_blocks_rate_is_its_share_of_the_rate(control_values, unwatched):
    """The first update of AdamW moves each weight that has a gradient by the rate: here that of `up`, which begins at
    zero, and of the hint's last convolutions, which do as well."""
    control_values["loop"] |= {"steps": 1, "learning_rate": 1e-3, "weight_decay": 0.0, "schedule": "constant"}
    control_values["loop"]["block_rates"] = {"0-1": 0.5, 4: 0, 8: 3.0, "hint": 0.25}
    weights = load_tuner(train(control_values)).state_dict()
    moved = {b: weights[f"tuners.{b}.up.weight"].abs().max().item() for b in range(9)}
    expected = {0: 0.5e-3, 1: 0.5e-3, 4: 0.0, 8: 3e-3} | dict.fromkeys((2, 3, 5, 6, 7), 1e-3)
    assert moved == pytest.approx(expected, rel=1e-3)
    assert weights["hint.dense.0.weight"].abs().max().item() == pytest.approx(0.25e-3, rel=1e-3)
    assert [event["learning_rate"] for event in events(control_values, "step")] == [1e-3]


def test_restarts_begin_the_schedule_anew():
    """100 updates after a warmup of 20: five parts of 20, of which each begins at 1."""
    for schedule, middle in (("cosine", 0.5), ("linear", 0.5)):
        factor = rate_factor(LoopSettings(steps=120, warmup=20, schedule=schedule, restarts=4))
        assert [factor(20 + 20 * i) for i in range(5)] == pytest.approx([1.0] * 5)
        assert [factor(30 + 20 * i) for i in range(5)] == pytest.approx([middle] * 5)
        assert factor(39) < 0.06
        assert factor(120) == 0.0
        assert factor(10) == 0.5
    once = rate_factor(LoopSettings(steps=120, warmup=20, schedule="cosine", restarts=0))
    assert once(70) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))


def test_a_running_mean_of_the_optimisers_own_comes_and_goes_without_a_trace():
    draw = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 8, generator=draw))
    optimizer = build_optimizer([weight], LoopSettings(optimizer="schedulefree_adamw", weight_decay=0.0))
    points = []
    for _ in range(7):
        (weight * torch.randn(8, 8, generator=draw)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        points.append(optimizer.state[weight]["z"].clone())
    before = weight.detach().clone()
    with own_mean(optimizer, [weight]):
        # with a constant rate each point counts alike (Defazio et al. 2024, equation 1)
        torch.testing.assert_close(weight.detach(), torch.stack(points).mean(0), atol=1e-6, rtol=0)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", ["schedulefree_adamw", "prodigy", "came", "adafactor"])
def test_a_stopped_run_of_another_optimiser_resumes_to_the_same_bits(quiet, name, monkeypatch, tmp_path):
    quiet["loop"] |= {"steps": 6, "optimizer": name, "warmup": 1}
    quiet["saving"] = {"every": 2}
    whole = load_file(train(quiet | {"output": str(tmp_path / "whole.safetensors")}))
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        assert train(quiet) is None
    found = load_file(train(quiet))
    assert all(torch.equal(found[key], whole[key]) for key in whole)
    if name == "schedulefree_adamw":  # what is delivered is the mean, and going on is from the point itself
        last = checkpoints_in(run_folder(quiet) / "checkpoints")[-1]
        _, point, mean = load_checkpoint(last)
        key = "tuners.0.up.weight"
        assert torch.equal(mean.state_dict()[key].flatten(), found[key].flatten())
        assert not torch.equal(point.state_dict()[key].flatten(), found[key].flatten())
