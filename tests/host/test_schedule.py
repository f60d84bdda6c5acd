"""Ranges of the schedule are half-open: ranges that meet cover each step once; the side of a prompt is chosen."""

from __future__ import annotations

import comfy_extras.nodes_model_advanced as host_advanced
import pytest
import torch
from small_model import prompt, relative, sample, small_model
from small_tuners import Forwards, apply_csc, apply_sc, control_prompts, csc_tuner, sc_tuner

STEPS = 8


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def base(model):
    with torch.inference_mode():
        return sample(model)


@pytest.mark.parametrize("scheduler", ["normal", "karras", "sgm_uniform", "simple"])
def test_two_halves_cover_each_step_exactly_once(pack, model, scheduler):
    options = {"steps": STEPS, "scheduler": scheduler}
    tuner, other, control = sc_tuner(pack), sc_tuner(pack, 23), csc_tuner(pack)
    whole = sample(apply_sc(pack, model, tuner), **options)
    halves = apply_sc(pack, apply_sc(pack, model, tuner, end=0.5), tuner, start=0.5)
    assert torch.equal(sample(halves, **options), whole)
    with Forwards(pack) as forwards:
        sample(apply_sc(pack, apply_sc(pack, model, tuner, end=0.5), other, start=0.5), **options)
    first, second = forwards.with_tuner(tuner), forwards.with_tuner(other)
    assert first + second == list(range(STEPS))
    assert first
    assert second
    whole = sample(model, *control_prompts(control), **options)
    positive, negative = control_prompts(control, end=0.5)
    positive, negative = control_prompts(control, start=0.5, positive=positive, negative=negative)
    assert torch.equal(sample(model, positive, negative, **options), whole)


def test_a_range_that_ends_at_one_has_the_last_step(pack, model, base):
    tuner = sc_tuner(pack)
    with Forwards(pack) as forwards:
        sample(apply_sc(pack, model, tuner, start=0.9), steps=STEPS)
    assert forwards.with_tuner(tuner) == [STEPS - 1]


def test_an_empty_range_is_the_base(pack, model, base):
    assert torch.equal(sample(apply_sc(pack, model, sc_tuner(pack), start=0.5, end=0.5)), base)
    assert torch.equal(sample(model, *control_prompts(csc_tuner(pack), start=0.7, end=0.3)), base)


def test_the_range_follows_a_schedule_that_is_changed_later(pack, model):
    """A node that changes the noise schedule may stand before or after the tuner."""
    tuner, change = sc_tuner(pack), host_advanced.ModelSamplingContinuousEDM()

    def rescheduled(m):
        return change.patch(m, "eps", sigma_max=400.0, sigma_min=0.002)[0]

    before = apply_sc(pack, rescheduled(model), tuner, start=0.3, end=0.6)
    after = rescheduled(apply_sc(pack, model, tuner, start=0.3, end=0.6))
    with Forwards(pack) as forwards:
        found = sample(before, steps=STEPS)
    seen = forwards.with_tuner(tuner)
    assert 0 < len(seen) < STEPS
    with Forwards(pack) as forwards:
        assert torch.equal(sample(after, steps=STEPS), found)
    assert forwards.with_tuner(tuner) == seen


@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_sides_of_an_sc_tuner(pack, model, cfg):
    tuner = sc_tuner(pack)
    results = {s: sample(apply_sc(pack, model, tuner, side=s), cfg=cfg) for s in ("both", "positive", "negative")}
    base = sample(model, cfg=cfg)
    assert relative(results["positive"], base) > 0.02
    if cfg == 1.0:  # the host leaves the negative out
        assert torch.equal(results["negative"], base)
        assert relative(results["positive"], results["both"]) < 1e-6
        return
    assert relative(results["negative"], base) > 0.02
    assert len({float(r.sum()) for r in results.values()}) == 3


def test_sides_add_up_in_one_step(pack, model):
    """The prediction is linear in cond and uncond, so in the first step the two sides' changes sum to that of both."""
    tuner = sc_tuner(pack)
    one = {s: sample(apply_sc(pack, model, tuner, side=s), steps=1) for s in ("both", "positive", "negative")}
    base = sample(model, steps=1)
    assert relative(one["positive"] + one["negative"] - base, one["both"]) < 1e-5


def test_control_on_the_positive_or_negative_only(pack, model, base):
    control = csc_tuner(pack)
    positive, negative = control_prompts(control)
    both = sample(model, positive, negative)
    only_positive = sample(model, positive, prompt(2))
    only_negative = sample(model, prompt(1), negative)
    for found in (both, only_positive, only_negative):
        assert relative(found, base) > 0.02
    by_model = apply_csc(pack, model, control)
    assert relative(sample(by_model), both) < 1e-6
    # In one step the sides' changes sum to that of both, as above.
    first = {"steps": 1}
    found = sample(model, positive, prompt(2), **first) + sample(model, prompt(1), negative, **first)
    assert relative(found - sample(model, **first), sample(model, positive, negative, **first)) < 1e-5
