"""attach() on a diffusers U-Net: exact where nothing is edited, and gradients only where they are wanted."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from accelerate import cpu_offload

from scedit_core import CSCTuner, HintError, LayoutError, SCEditError, SCTuner, SkipLayout
from scedit_core.conditions.fitting import Fitting, fit_hint
from scedit_core.diffusers import attach


def run(unet, inputs, tuners=()):
    with torch.no_grad(), attach(unet, tuners):
        return unet(*inputs).sample


def relative(found, expected) -> float:
    return float((found - expected).norm() / expected.norm())


def test_strength_0_and_fresh_tuners_are_bit_identical_to_none(tiny_unet, tiny_layout, inputs, make_sc, make_csc, hint):
    base = tiny_unet(*inputs).sample
    assert torch.equal(run(tiny_unet, inputs, [(make_sc(), 0.0, None), (make_csc(), 0.0, hint)]), base)
    fresh = [(SCTuner(tiny_layout), 1.0, None), (CSCTuner(tiny_layout), 1.0, hint)]
    assert torch.equal(run(tiny_unet, inputs, fresh), base)
    run(tiny_unet, inputs, [(make_sc(), 1.0, None)])
    assert torch.equal(tiny_unet(*inputs).sample, base)  # nothing stays attached


def test_tuners_change_the_output_and_do_not_depend_on_order(tiny_unet, inputs, make_sc, make_csc, hint):
    tuners = [(make_sc(1), 0.9, None), (make_csc(2), 0.5, hint), (make_sc(3, blocks=[0, 4]), -0.4, None)]
    edited = run(tiny_unet, inputs, tuners)
    assert relative(edited, tiny_unet(*inputs).sample) > 0.1
    assert relative(run(tiny_unet, inputs, tuners[::-1]), edited) < 1e-5


def test_each_block_edits_the_skip_of_its_own_number(tiny_unet, tiny_layout, inputs, make_sc):
    """The last block's tuner sees the first convolution's output, and so on: an off-by-one would not fit or differ."""
    for b in range(len(tiny_layout)):
        seen = []
        tuner = make_sc(blocks=[b])
        tuner.tuners[str(b)].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape))
        with attach(tiny_unet, [(tuner, 1.0, None)]):  # with gradients, tuner by tuner
            expected = tiny_unet(*inputs).sample
        assert relative(run(tiny_unet, inputs, [(tuner, 1.0, None)]), expected) < 1e-6
        side = 16 // tiny_layout.strides[b]
        assert seen == [(2, tiny_layout.channels[b], side, side)]


def test_the_first_gradient_step_changes_up(tiny_unet, tiny_layout, inputs):
    tuner = SCTuner(tiny_layout)
    optimiser = torch.optim.SGD(tuner.parameters(), lr=1.0)
    with attach(tiny_unet, [(tuner, 1.0, None)]):
        tiny_unet(*inputs).sample.square().mean().backward()
    optimiser.step()
    for adapter in tuner.tuners.values():
        assert adapter.up.weight.abs().max() > 0
        assert adapter.up.bias.abs().max() > 0


@pytest.mark.parametrize("unet_dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_every_parameter_and_no_encoder(tiny_unet, tiny_layout, inputs, hint, unet_dtype):
    unet = tiny_unet.to(unet_dtype)
    noisy, steps, text = inputs
    frozen = []
    watched = [unet.conv_in, *unet.down_blocks.modules(), *unet.mid_block.modules()]

    def watch(_, __, output) -> None:
        parts = [output] if isinstance(output, torch.Tensor) else [*output[:1], *(output[1] if output[1:] else ())]
        frozen.extend(part for part in parts if isinstance(part, torch.Tensor))

    handles = [module.register_forward_hook(watch) for module in watched]
    try:
        sc, csc = SCTuner(tiny_layout), CSCTuner(tiny_layout)
        named = {f"{kind}.{k}": p for kind, t in (("sc", sc), ("csc", csc)) for k, p in t.named_parameters()}
        optimiser = torch.optim.AdamW(named.values(), lr=1e-2)
        reached = set()
        for _ in range(4):
            optimiser.zero_grad()
            with attach(unet, [(sc, 1.0, None), (csc, 1.0, hint)]):
                output = unet(noisy.to(unet_dtype), steps, text.to(unet_dtype)).sample
                (output.float() - noisy).square().mean().backward()
            reached |= {k for k, p in named.items() if p.grad is not None and p.grad.abs().max() > 0}
            assert all(p.dtype == torch.float32 for p in named.values())
            optimiser.step()
    finally:
        for handle in handles:
            handle.remove()
        tiny_unet.to(torch.float32)
    assert len(frozen) > 100
    assert not any(t.requires_grad or t.grad_fn is not None for t in frozen)
    assert set(named) - reached == set()
    assert all(p.grad is None for p in unet.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_tuner_works_under_a_float32_unet(tiny_unet, inputs, make_sc, dtype):
    tuner = make_sc()
    expected = run(tiny_unet, inputs, [(tuner, 1.0, None)])
    assert relative(run(tiny_unet, inputs, [(tuner.to(dtype), 1.0, None)]), expected) < 0.02
    assert tuner.dtype == dtype  # the caller's tuner is left as it was


def test_without_gradients_no_adapter_runs_by_itself_and_changes_are_seen(tiny_unet, inputs, make_sc, make_csc, hint):
    """Strength, mask and weights may change while the context is open; what is folded follows."""
    style, control, calls = make_sc(), make_csc(), []
    style.tuners["3"].register_forward_hook(lambda *_: calls.append(1))

    def expected(*strengths, mask=None):
        with attach(tiny_unet, [(style, strengths[0], None), (control, strengths[1], hint)]) as edits:
            edits[0].mask = mask
            return tiny_unet(*inputs).sample.detach()

    half = torch.ones(1, 128, 128)
    half[..., 64:] = 0
    wanted = [expected(1.0, 0.5), expected(-0.4, 0.8), expected(-0.4, 0.8, mask=half)]
    calls.clear()
    with torch.no_grad(), attach(tiny_unet, [(style, 1.0, None), (control, 0.5, hint)]) as edits:
        assert relative(tiny_unet(*inputs).sample, wanted[0]) < 1e-6
        edits[0].strength, edits[1].strength = -0.4, 0.8
        assert relative(tiny_unet(*inputs).sample, wanted[1]) < 1e-6
        edits[0].mask = half
        assert relative(tiny_unet(*inputs).sample, wanted[2]) < 1e-6
        assert calls == []
        style.tuners["3"].up.weight.mul_(2)
        changed = tiny_unet(*inputs).sample
    assert relative(changed, wanted[2]) > 1e-3
    assert relative(changed, expected(-0.4, 0.8, mask=half)) < 1e-6


def test_hints_are_encoded_once(tiny_unet, inputs, make_csc, hint):
    tuner, calls = make_csc(), []
    tuner.hint.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad(), attach(tiny_unet, [(tuner, 1.0, hint)]):
        for _ in range(3):
            tiny_unet(*inputs)
    assert len(calls) == 1


def test_a_tuner_of_another_unet_is_refused(tiny_unet, one_sentence):
    sdxl = SkipLayout.from_channels((1280,) * 2 + (640,) * 3 + (320,) * 4)
    with pytest.raises(LayoutError) as raised, attach(tiny_unet, [(SCTuner(sdxl, ratio=0.01), 1.0, None)]):
        pass
    one_sentence(raised, "SDXL", "64 x5, 32 x4")


def test_missing_and_misplaced_hints_are_refused(tiny_unet, make_sc, make_csc, hint, one_sentence):
    for tuner, given in ((make_csc(), None), (make_sc(), hint)):
        with pytest.raises(HintError) as raised, attach(tiny_unet, [(tuner, 1.0, given)]):
            pass
        one_sentence(raised)


@pytest.mark.parametrize("fitting", [None, Fitting("lines"), Fitting("smooth", "white")])
def test_hints_of_other_sizes_are_fitted_as_the_tuner_was_trained(tiny_unet, inputs, make_csc, fitting):
    tuner = make_csc()
    tuner.metadata = {} if fitting is None else {"scedit.condition": json.dumps({"type": "custom", **fitting.said()})}
    for shape in ((1, 4, 128, 128), (1, 3, 64, 64), (1, 3, 401, 390), (1, 1, 38, 38)):
        hint = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        expected = run(tiny_unet, inputs, [(tuner, 1.0, fit_hint(hint, 128, 128, fitting))])
        assert torch.equal(run(tiny_unet, inputs, [(tuner, 1.0, hint)]), expected)


@pytest.mark.parametrize("shape", [(1, 5, 128, 128), (3, 3, 128, 128)], ids=str)
def test_hints_that_do_not_fit_are_refused(tiny_unet, inputs, make_csc, one_sentence, shape):
    hint = torch.rand(shape)
    with pytest.raises(SCEditError) as raised, torch.no_grad(), attach(tiny_unet, [(make_csc(), 1.0, hint)]):
        tiny_unet(*inputs)
    one_sentence(raised)
    tiny_unet(*inputs)  # and nothing stays attached


def test_a_hint_of_bytes_is_refused_at_the_pictures_own_size_too(tiny_unet, inputs, make_csc):
    """By a tuner whose file says no fitting, as at every other size: taken as it is, it would be 255 times too much."""
    for side in (128, 96):
        with pytest.raises(SCEditError, match=r"expected floats .* pass a picture in 0\.\.1"):
            run(tiny_unet, inputs, [(make_csc(), 1.0, torch.zeros(1, 3, side, side, dtype=torch.uint8))])


def test_a_second_attach_on_the_same_unet_is_refused(tiny_unet, inputs, make_sc, one_sentence):
    """It would read skips that the first has edited: other sums than both together."""
    with attach(tiny_unet, [(make_sc(1), 1.0, None)]), pytest.raises(SCEditError) as raised:
        run(tiny_unet, inputs, [(make_sc(2), 1.0, None)])
    one_sentence(raised, "pass all tuners to one attach")
    with attach(tiny_unet, [(make_sc(1), 1.0, None)]), torch.no_grad():  # one without tuners changes nothing
        assert torch.equal(run(tiny_unet, inputs), tiny_unet(*inputs).sample)
        with pytest.raises(SCEditError):
            run(tiny_unet, inputs, [(make_sc(2), 1.0, None)])
    run(tiny_unet, inputs, [(make_sc(2), 1.0, None)])  # one after another they are as before


def test_tuners_follow_a_unet_that_accelerate_offloads(tiny_unet, inputs, make_sc, make_csc, hint):
    """Sequential CPU offload of diffusers: weights are on the device of no memory but in a forward."""
    tuners = [(make_sc(), 1.0, None), (make_csc(), 0.7, hint)]
    expected = run(tiny_unet, inputs, tuners)
    unet = cpu_offload(copy.deepcopy(tiny_unet), "cpu", offload_buffers=True)
    assert {p.device.type for p in unet.parameters()} == {"meta"}
    assert torch.equal(run(unet, inputs, tuners), expected)


@pytest.mark.parametrize("made_in", [torch.no_grad, torch.inference_mode])
def test_a_mask_is_heard_however_it_is_changed(tiny_unet, inputs, make_sc, made_in):
    """Filled anew, or replaced by one that comes to lie in the same memory."""
    left, tuner = torch.ones(1, 128, 128), make_sc()
    left[..., 64:] = 0

    def alone(mask):
        with torch.no_grad(), attach(tiny_unet, [(tuner, 1.0, None)]) as edits:
            edits[0].mask = mask
            return tiny_unet(*inputs).sample

    wanted = [alone(left), alone(1 - left)]
    memory = torch.empty(128 * 128)
    with made_in(), attach(tiny_unet, [(tuner, 1.0, None)]) as edits:
        for i in (0, 1, 0):
            mask = [left, 1 - left][i]
            edits[0].mask = None
            memory.copy_(mask.flatten())
            edits[0].mask = torch.from_numpy(memory.numpy()).view(1, 128, 128)
            assert torch.equal(tiny_unet(*inputs).sample, wanted[i])
        filled = edits[0].mask = left.clone()
        assert torch.equal(tiny_unet(*inputs).sample, wanted[0])
        filled.copy_(1 - left)
        assert torch.equal(tiny_unet(*inputs).sample, wanted[1])
