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
from scedit_core.fitting.optimizing import build_optimizer, check_optimizer, grouped, own_mean, rate_factor
from scedit_core.fitting.regrouping import grouped_names, load_by_name
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


def test_going_on_with_other_block_rates_and_betas_takes_them_and_leaves_each_moment_with_its_parameter(quiet):
    """As many groups as before, but of other blocks; more groups; none; and one that has been frozen until then."""
    loop = {"steps": 2, "batch": 2, "warmup": 0, "schedule": "constant", "learning_rate": 1e-3}
    quiet["loop"] |= loop | {"block_rates": {0: 0.5, 2: 0}, "optimizer_arguments": {"betas": [0.9, 0.99]}}
    train(quiet)
    path = checkpoints_in(run_folder(quiet) / "checkpoints")[-1]
    state, _, _ = load_checkpoint(path)
    names = [name for each in state.parts["grouped"] for name in each]
    saved = {name: state.parts["optimizer"]["state"][i]["exp_avg_sq"] for i, name in enumerate(names)}
    assert not [name for name in saved if name.startswith("tuners.2.")]
    for rates in ({0: 2.0, 2: 0}, {1: 0.5, 2: 0}, {8: 0.5}, {0: 0.5, 1: 0.25, 3: 3.0}, {}):
        wanted = LoopSettings(**loop, block_rates=rates, optimizer_arguments={"betas": (0.5, 0.75), "eps": 1e-5})
        tuner = load_tuner(path / "tuner.safetensors").requires_grad_(True)
        optimizer = build_optimizer(grouped(tuner, wanted), wanted)
        names = grouped_names(optimizer, tuner)
        assert load_by_name(optimizer, names, state.parts, state.config["loop"], wanted) is None
        for each, group in zip(names, optimizer.param_groups, strict=True):
            assert (group["betas"], group["eps"]) == ((0.5, 0.75), 1e-5)
            assert {rates.get(int(name.split(".")[1]), 1.0) for name in each} == {group.get("factor", 1.0)}
        for name, parameter in tuner.named_parameters():
            found = optimizer.state[parameter].get("exp_avg_sq") if parameter.requires_grad else None
            assert (found is None) == (name not in saved or not parameter.requires_grad), name
            assert found is None or torch.equal(found, saved[name]), name
    quiet["loop"] |= {"steps": 3, "block_rates": {1: 0.5}, "optimizer_arguments": {"betas": [0.5, 0.75]}}
    train(quiet, start=str(path))
    last, _, _ = load_checkpoint(checkpoints_in(run_folder(quiet) / "checkpoints")[-1])
    groups = last.parts["optimizer"]["param_groups"]
    assert [(group["factor"], group["lr"], group["betas"]) for group in groups] == [
        (1.0, 1e-3, (0.5, 0.75)),
        (0.5, 5e-4, (0.5, 0.75)),
    ]
    found = {int(each["step"]) for each in last.parts["optimizer"]["state"].values()}
    assert found == {1, 3}  # block 2 was frozen before
    assert not [event for event in events(quiet, "note") if "new optimiser" in event["message"]]


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        ({"arguments": {}}, {"arguments": {"amsgrad": True}}, "another amsgrad now"),
        ({"rates": {0: 0.5}, "unnamed": True}, {"rates": {1: 0.5}}, "does not say to which blocks"),
        ({"rates": {0: 0.5}, "name": "schedulefree_adamw"}, {"rates": {1: 0.5}}, "joins blocks"),
    ],
)
def test_an_optimisers_state_that_fits_no_more_is_begun_anew_and_that_is_told(quiet, before, now, reason):
    def asked(steps: int, rates: dict | None = None, arguments: dict | None = None) -> dict:
        said = {"steps": steps, "block_rates": rates or {}, "optimizer_arguments": arguments or {}, "warmup": 0}
        return {**quiet, "loop": {**quiet["loop"], **said, "optimizer": before.get("name", "adamw")}}

    train(asked(2, before.get("rates"), before.get("arguments")))
    path = checkpoints_in(run_folder(quiet) / "checkpoints")[-1]
    if "unnamed" in before:  # as checkpoints were before
        state = torch.load(path / "state.pt")
        del state["parts"]["grouped"]
        torch.save(state, path / "state.pt")
    train(asked(3, **now), start=str(path))
    (note,) = [event["message"] for event in events(quiet, "note") if "new optimiser" in event["message"]]
    assert reason in note
    state, _, _ = load_checkpoint(checkpoints_in(run_folder(quiet) / "checkpoints")[-1])
    entries = [*state.parts["optimizer"]["state"].values(), *state.parts["optimizer"]["param_groups"]]
    assert {int(entry[key]) for entry in entries for key in ("step", "k") if key in entry} == {1}
