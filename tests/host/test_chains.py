"""Controls of several kinds in one chain, several devices, and pieces that a tiled upscaler cuts."""

from __future__ import annotations

import comfy.model_management
import comfy.t2i_adapter.adapter
import comfy.utils
import pytest
import torch
from comfy.controlnet import T2IAdapter
from plain_edits import plain_csc, plain_sc, with_plain
from small_model import noise_of, picture, prompt, randomise, relative, sample, small_controlnet, small_model
from small_tuners import apply_sc, control_prompts, csc_tuner, sc_tuner


@pytest.fixture(scope="module")
def model():
    return small_model()


def small_adapter(seed: int = 12) -> T2IAdapter:
    """A T2I-Adapter of the host for the small SD 1.5 model."""
    network = comfy.t2i_adapter.adapter.Adapter(
        channels=[32, 64, 128, 128], nums_rb=2, cin=3 * 64, ksize=1, sk=True, use_conv=False, xl=False
    )
    return T2IAdapter(randomise(network, seed), 3, 8, "nearest-exact", device=torch.device("cpu"))


def chained(controls: dict, order: str) -> tuple[list, list]:
    positive, negative = prompt(1), prompt(2)
    for name in order:
        control, strength = controls[name]
        image = picture(seed=40 + ord(name))
        positive, negative = control_prompts(control, image, strength, positive=positive, negative=negative)
    return positive, negative


def test_three_csc_two_controlnets_and_an_adapter_in_four_orders(pack, model):
    """The CSC-Tuners a, b and c edit the skips that the others, A, B and T, have added to, wherever they stand."""
    controls = {name: (csc_tuner(pack, 31 + i), 0.5 - 0.1 * i) for i, name in enumerate("abc")}
    controls |= {"A": (small_controlnet(11), 0.4), "B": (small_controlnet(13), 0.3), "T": (small_adapter(), 0.5)}
    edits = [
        plain_csc(pack, control, picture(seed=40 + ord(name)), strength)
        for name, (control, strength) in controls.items() if name in "abc"
    ]  # fmt: skip
    expected = sample(with_plain(pack, model, *edits), *chained(controls, "ABT"))
    assert relative(expected, sample(model, *chained(controls, "ABT"))) > 0.02
    assert relative(expected, sample(with_plain(pack, model, *edits))) > 0.02
    for order in ("abcABT", "AaBbTc", "TcBAba", "cTbAaB"):
        assert relative(sample(model, *chained(controls, order)), expected) < 1e-5


def test_tuners_of_different_blocks(pack, model):
    """A style on two blocks, another with hidden features of its own on three, and a control on all."""
    few, some = sc_tuner(pack, 21, blocks=[0, 3]), sc_tuner(pack, 22, blocks=[3, 7, 11], ratio=0.5)
    control = csc_tuner(pack)
    ours = apply_sc(pack, apply_sc(pack, model, few, 0.6), some, -0.4)
    edits = [plain_sc(pack, few, 0.6), plain_sc(pack, some, -0.4), plain_csc(pack, control, strength=0.7)]
    expected = sample(with_plain(pack, model, *edits))
    assert relative(expected, sample(with_plain(pack, model, edits[2]))) > 0.01
    assert relative(sample(ours, *control_prompts(control, strength=0.7)), expected) < 1e-5


def test_prompts_on_two_devices(pack, model, monkeypatch):
    """The host's MultiGPU split, with the CPU under two names: each device has a model, a control and a state."""
    multigpu = pytest.importorskip("comfy.multigpu", reason="this host splits nothing between devices")
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: devices)
    control = csc_tuner(pack)
    edited = apply_sc(pack, model, sc_tuner(pack), 0.6)
    prompts = control_prompts(control, strength=0.7)
    expected = sample(edited, *prompts)
    split = multigpu.create_multigpu_deepclones(edited, 2)
    assert len(split.get_additional_models_with_key("multigpu")) == 1
    assert relative(sample(split, *control_prompts(control, strength=0.7)), expected) < 1e-5


def cropped(conditioning: list, top: int, canvas: int, tile: int) -> list:
    """What UltimateSDUpscale does with a chain of controls: copies whose hint is the tile's part of the original."""
    made = []
    for text, options in conditioning:
        options, control = dict(options), options["control"]
        copy = options["control"] = control.copy()
        while control is not None:
            hint = copy.cond_hint_original
            begin, rows = round(top * hint.shape[-2] / canvas), round(tile * hint.shape[-2] / canvas)
            copy.cond_hint_original = hint[..., begin : begin + rows, :]
            control = control.previous_controlnet
            copy.set_previous_controlnet(control.copy() if control is not None else None)
            copy = copy.previous_controlnet
        made.append([text, options])
    return made


def test_hints_that_a_tiled_upscaler_crops(pack, model):
    """Each tile is what a run with its part of the hints gives, whatever ran before it."""
    first, second = picture(1, 256, 128, seed=5), picture(1, 512, 256, seed=6)
    control, other = csc_tuner(pack, 31), csc_tuner(pack, 32)

    def prompts(one, two):
        positive, negative = control_prompts(control, one, 0.7)
        return control_prompts(other, two, 0.6, positive=positive, negative=negative)

    whole = prompts(first, second)
    for top in (0, 128, 64):
        noise = noise_of(seed=top)
        found = sample(model, *(cropped(each, top, 256, 128) for each in whole), noise=noise)
        part = first[:, top : top + 128], second[:, 2 * top : 2 * top + 256]
        assert relative(found, sample(model, *prompts(*part), noise=noise)) < 1e-5
