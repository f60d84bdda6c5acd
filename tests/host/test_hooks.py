"""Hook LoRAs, keyframes, masked and default conditioning: the picture is that of the plain formula."""

from __future__ import annotations

import comfy.hooks
import pytest
import torch
from plain_edits import plain_csc, plain_sc, with_plain
from small_model import prompt, relative, sample, small_model
from small_tuners import apply_csc, apply_sc, control_prompts, csc_tuner, sc_tuner

STEPS = 4


@pytest.fixture(scope="module")
def model():
    return small_model()


def lora(seed: int) -> dict:
    """A LoRA of rank 2 on two layers of the small model, as a file has it."""
    draw = torch.Generator().manual_seed(seed)
    layers = {
        "output_blocks.5.1.transformer_blocks.0.attn2.to_q": (128, 128),
        "output_blocks.8.0.in_layers.2": (64, 96, 3, 3),
    }
    made = {}
    for name, (out, into, *kernel) in layers.items():
        made[f"diffusion_model.{name}.lora_up.weight"] = torch.randn(out, 2, *[1] * len(kernel), generator=draw)
        made[f"diffusion_model.{name}.lora_down.weight"] = torch.randn(2, into, *kernel, generator=draw) / into
    return made


def hooks(seed: int, keyframes: bool = False) -> comfy.hooks.HookGroup:
    made = comfy.hooks.create_hook_lora(lora=lora(seed), strength_model=1.0, strength_clip=0.0)
    if keyframes:
        group = comfy.hooks.HookKeyframeGroup()
        for strength, start in ((1.0, 0.0), (0.3, 0.5)):
            group.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
        made.set_keyframes_on_hooks(group)
    return made


def hooked(conditioning: list, group) -> list:
    return comfy.hooks.set_hooks_for_conditioning(conditioning, group)


def half(left: bool) -> torch.Tensor:
    mask = torch.zeros(1, 128, 128)
    mask[:, :, slice(None, 64) if left else slice(64, None)] = 1
    return mask


def conditionings(what: str) -> tuple[list, list]:
    """Positive and negative."""
    if what == "one hook":
        return hooked(prompt(1), hooks(1)), hooked(prompt(2), hooks(1))
    if what == "two hooks":
        return hooked(prompt(1), hooks(1)), hooked(prompt(2), hooks(2))
    if what == "keyframes":
        return hooked(prompt(1), hooks(1, keyframes=True)), prompt(2)
    masked = [
        comfy.hooks.set_mask_for_conditioning(hooked(prompt(seed), hooks(seed)), half(left), "default", 1.0)
        for seed, left in ((1, True), (3, False))
    ]
    if what == "masked":
        return masked[0] + masked[1], prompt(2)
    (default,) = comfy.hooks.set_default_conds_and_combine([masked[0]], [prompt(3)])
    return default, prompt(2)


@pytest.mark.parametrize("what", ["one hook", "two hooks", "keyframes", "masked", "default"])
def test_hooks_on_conditioning(pack, model, what):
    """With an SC-Tuner and a CSC-Tuner on the MODEL."""
    style, control = sc_tuner(pack), csc_tuner(pack)
    ours = apply_csc(pack, apply_sc(pack, model, style, 0.6), control, strength=0.7, resize="stretch")
    plain = with_plain(pack, model, plain_sc(pack, style, 0.6), plain_csc(pack, control, strength=0.7))
    expected = sample(plain, *conditionings(what), steps=STEPS)
    assert relative(expected, sample(plain, steps=STEPS)) > 1e-3, "the hooks did nothing"
    assert relative(expected, sample(model, *conditionings(what), steps=STEPS)) > 0.02
    assert relative(sample(ours, *conditionings(what), steps=STEPS), expected) < 1e-5


@pytest.mark.parametrize("what", ["one hook", "two hooks", "keyframes"])
def test_controls_on_conditioning_with_hooks(pack, model, what):
    """A CSC-Tuner by Apply ControlNet, on prompts that have hooks: as on the MODEL."""
    control = csc_tuner(pack)
    positive, negative = conditionings(what)
    controlled = control_prompts(control, strength=0.7, positive=positive, negative=negative)
    plain = with_plain(pack, model, plain_csc(pack, control, strength=0.7))
    assert relative(sample(model, *controlled, steps=STEPS), sample(plain, *conditionings(what), steps=STEPS)) < 1e-5
