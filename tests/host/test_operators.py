"""How many operators tuners add to a step: on a GPU, a step at usual sizes is bound by their launches."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import PACK_ROOT
from small_model import sample, small_model
from small_tuners import apply_csc, apply_sc, control_prompts, csc_tuner, sc_tuner

sys.path.append(str(PACK_ROOT))  # behind the host's: the folder of benchmarks itself holds a module named training
from benchmarks.inference import OPERATORS, step_operators


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def base(model):
    with torch.inference_mode():
        return step_operators(lambda steps: sample(model, steps=steps))


def controlled(pack, count: int) -> list:
    prompts = [None, None]
    for seed in range(count):
        control = csc_tuner(pack, 31 + seed)
        prompts = control_prompts(control, positive=prompts[0], negative=prompts[1])
    return list(prompts)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_added_to_a_step(pack, model, base, name):
    """On the whole step, sampler included, with positive and negative prompt in one batch."""
    controls = {"CSC-Tuner": 1, "four CSC-Tuners": 4, "four CSC, two SC-Tuners": 4}.get(name, 0)
    edited = model
    for seed in range({"SC-Tuner": 1, "four CSC, two SC-Tuners": 2}.get(name, 0)):
        edited = apply_sc(pack, edited, sc_tuner(pack, 21 + seed), 0.5)
    prompts = controlled(pack, controls)
    added = step_operators(lambda steps: sample(edited, *prompts, steps=steps)) - base
    assert 12 * 2 <= added <= OPERATORS[name]  # at least the two products on each of 12 skips


def test_a_control_on_the_model_adds_as_few(pack, model, base):
    edited = apply_csc(pack, model, csc_tuner(pack))
    assert step_operators(lambda steps: sample(edited, steps=steps)) - base <= OPERATORS["CSC-Tuner"]
