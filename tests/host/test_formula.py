"""The combined formula on a real host: zero is the base, the authors' numbers, no matter the order of the nodes."""

from __future__ import annotations

import itertools

import pytest
import torch
from authors import authors_csc, authors_sc, authors_unet
from small_model import picture, relative, sample, small_controlnet, small_model
from small_tuners import apply_csc, apply_sc, control_prompts, csc_tuner, sc_tuner
from torch import nn

EFFECT = 0.02  # an edit that changes the latent by less would prove nothing


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def base(model):
    with torch.inference_mode():
        return sample(model)


def test_strength_zero_is_the_base_bit_for_bit(pack, model, base):
    edited = apply_csc(pack, apply_sc(pack, model, sc_tuner(pack), 0.0), csc_tuner(pack), strength=0.0)
    assert torch.equal(sample(edited, *control_prompts(csc_tuner(pack), strength=0.0)), base)


def test_zero_block_weights_are_the_base_bit_for_bit(pack, model, base):
    weights = pack.nodes["SCEditBlockWeights"].execute("custom", ", ".join(["0"] * 12)).args[0]
    edited = apply_sc(pack, model, sc_tuner(pack), block_weights=weights)
    assert torch.equal(sample(edited), base)


@pytest.mark.parametrize("what", ["sc", "csc-model", "csc-control"])
def test_each_route_edits(pack, model, base, what):
    if what == "sc":
        found = sample(apply_sc(pack, model, sc_tuner(pack)))
    elif what == "csc-model":
        found = sample(apply_csc(pack, model, csc_tuner(pack)))
    else:
        found = sample(model, *control_prompts(csc_tuner(pack)))
    assert found.isfinite().all()
    assert relative(found, base) > EFFECT


def test_both_routes_of_csc_agree(pack, model):
    control = csc_tuner(pack)
    by_model = sample(apply_csc(pack, model, control, strength=0.7))
    by_control = sample(model, *control_prompts(control, strength=0.7))
    assert relative(by_control, by_model) < 1e-6


@pytest.mark.parametrize("case", ["sc", "csc", "two-csc-and-sc"])
def test_the_authors_numbers_through_the_host(pack, model, tmp_path, case):
    """The same sampling with the authors' U-Net and tuners in the host's model, and with the host's U-Net and ours."""
    theirs = small_model()
    unet = authors_unet()
    ours = small_model()
    ours.model.diffusion_model.load_state_dict(unet.unet.state_dict())  # their U-Net has the host's key names
    theirs.model.diffusion_model = unet
    plain = sample(theirs)
    assert relative(sample(ours), plain) < 1e-4

    def loaded(module, prefix):
        path = tmp_path / f"{prefix}{len(list(tmp_path.iterdir()))}.bin"
        torch.save({prefix + k: v for k, v in module.state_dict().items()}, path)
        return pack.managed.ManagedTuner(pack.core.load_tuner(path), path.name, str(path))

    positive, negative = None, None
    if case != "csc":
        sc = authors_sc(sc_tuner(pack).tuner.layout.channels, 41)
        unet.unet.lsc_identity = sc
        unet.scales["tuner_scale"] = 0.8
        ours = apply_sc(pack, ours, loaded(sc, "model.lsc_identity."), 0.8)
    if case != "sc":
        images = [picture(seed=61), picture(seed=62)][: 1 if case == "csc" else 2]
        controls = [authors_csc(unet, 51, 3), authors_csc(unet, 52, 1)][: len(images)]
        unet.unet.control_blocks = nn.ModuleList(controls)
        unet.hints = [image.movedim(-1, 1) for image in images]
        unet.scales["control_scale"] = 0.6
        for csc, image in zip(controls, images, strict=True):
            control = pack.control.SCEditControl(loaded(csc, "0."))
            positive, negative = control_prompts(control, image, 0.6, positive=positive, negative=negative)
    expected = sample(theirs)
    assert relative(expected, plain) > EFFECT
    assert relative(sample(ours, positive, negative), expected) < 1e-4


def test_two_sc_and_two_csc_in_six_orders_are_one_picture(pack, model, base):
    styles = [sc_tuner(pack, 21), sc_tuner(pack, 22)]
    controls = [csc_tuner(pack, 31), csc_tuner(pack, 32, kernel=1)]
    images = [picture(seed=5), picture(seed=6)]

    def by_model(m, i):
        return apply_sc(pack, m, styles[i], 0.5)

    def edited(order: tuple[int, ...]):
        m = model
        for i in order:  # 0 and 1 are SC, 2 and 3 CSC, all on the MODEL route
            m = by_model(m, i) if i < 2 else apply_csc(pack, m, controls[i - 2], images[i - 2], 0.5)
        return sample(m)

    orders = list(itertools.permutations(range(4)))[::4]
    assert len(orders) == 6
    results = [edited(order) for order in orders]
    assert relative(results[0], base) > EFFECT
    for result in results[1:]:
        assert relative(result, results[0]) < 1e-6
    # The same four with the controls on the CONTROL_NET route, one of them, then both, in either order.
    for order in ((0, 1), (1, 0)):
        m = by_model(by_model(model, order[0]), order[1])
        prompts = control_prompts(controls[order[0]], images[order[0]], 0.5)
        one = apply_csc(pack, m, controls[order[1]], images[order[1]], 0.5)
        assert relative(sample(one, *prompts), results[0]) < 1e-6
        both = control_prompts(controls[order[1]], images[order[1]], 0.5, positive=prompts[0], negative=prompts[1])
        assert relative(sample(m, *both), results[0]) < 1e-6


def test_edits_read_the_unedited_skip(pack, model):
    """Two tuners at once are not one after the other: the sum is that of the merged tuner."""
    a, b = sc_tuner(pack, 21), sc_tuner(pack, 22)
    merged = pack.nodes["SCEditMergeSCTuners"].execute(a, 0.7, b, -0.4).args[0]
    chained = sample(apply_sc(pack, apply_sc(pack, model, a, 0.7), b, -0.4))
    assert relative(sample(apply_sc(pack, model, merged)), chained) < 1e-5


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_real_controlnet_in_the_chain(pack, model, place):
    control, real = csc_tuner(pack), small_controlnet()
    alone = sample(model, *control_prompts(real, strength=0.5))
    chain = [control, real] if place == "before" else [real, control]
    positive, negative = None, None
    for each in chain:
        positive, negative = control_prompts(each, strength=0.5, positive=positive, negative=negative)
    found = sample(model, positive, negative)
    by_model = sample(apply_csc(pack, model, control, strength=0.5), *control_prompts(real, strength=0.5))
    assert relative(found, alone) > EFFECT
    assert relative(found, by_model) < 1e-6
