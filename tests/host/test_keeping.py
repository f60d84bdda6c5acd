"""What a run keeps: bounded, told to the host by what it is, given back, made again bit for bit, safe under threads."""

from __future__ import annotations

import threading

import comfy.model_management
import pytest
import torch
from small_model import noise_of, picture, prompt, relative, sample, small_model
from small_tuners import EncodeCount, Forwards, apply_csc, apply_sc, control_prompts, csc_tuner, kept, sc_tuner

GIB = 2**30


@pytest.fixture(scope="module")
def model():
    return small_model()


def announced(pack, monkeypatch) -> list[int]:
    """Bytes that the host is asked to free, beside what it keeps free for a forward in any case."""
    asked: list[int] = []
    free = comfy.model_management.free_memory
    always = comfy.model_management.minimum_inference_memory()

    def spied(memory_required, device, keep_loaded=(), **named):
        if keep_loaded:
            asked.append(memory_required - always)
        return free(memory_required, device, keep_loaded=keep_loaded, **named)

    monkeypatch.setattr(comfy.model_management, "free_memory", spied)
    return asked


@pytest.mark.parametrize("route", ["model", "control"])
@pytest.mark.parametrize("hint_size", [128, 1024])
def test_what_is_announced_is_what_is_held(pack, model, monkeypatch, route, hint_size):
    """Within a tenth, and by the picture's size: a hint eight times as large announces the same."""
    control, tuner, image = csc_tuner(pack), sc_tuner(pack), picture(1, hint_size, hint_size)
    mask = torch.rand(1, 64, 64)
    edited, prompts = apply_sc(pack, model, tuner, 0.5, mask=mask), (None, None)
    if route == "model":
        edited = apply_csc(pack, edited, control, image)
    else:
        prompts = control_prompts(control, image)
        assert prompts[0][0][1]["control"].inference_memory_requirements(torch.float16) == 0
    asked, held = announced(pack, monkeypatch), []
    with Forwards(pack) as forwards:
        sample(edited, *prompts, callback=lambda *_: held.append(kept(forwards.runs[0])))
    assert len(set(held)) == 1
    assert sum(asked) == pytest.approx(held[0], rel=0.1)
    assert kept(forwards.runs[0]) == 0


def true_size_tuner(pack, family: str = "sd15"):
    """A CSC-Tuner of the true channels, without memory of its own: for counting."""
    layout = pack.core.SkipLayout.from_channels([1280] * 5 + [640] * 3 + [320] * 4)
    return layout, pack.core.CSCTuner(layout, device="meta")


def test_64_frames_in_windows_of_16_hold_at_most_0_7_gib(pack, monkeypatch):
    """SD 1.5 at 512 pixels in float16, counted on the meta device through the state that runs have."""
    _, tuner = true_size_tuner(pack)
    control = pack.managed.ManagedTuner(tuner, "canny.safetensors", "canny", mapped=False)
    monkeypatch.setattr(pack.run, "make_room", lambda *_: None)
    image = torch.empty(64, 3, 8, 8, device="meta")
    hint = pack.hints.Hint(control, image)
    patch = pack.patch.SkipPatch(control, 1.0, hint=hint)
    made: list[tuple] = []
    monkeypatch.setattr(pack.patch.Features, "_encoded", lambda self: made.append(self.rows) or features(self.rows))

    def features(rows):
        layout = tuner.layout
        return {
            b: torch.empty(len(rows), c, 64 // s, 64 // s, device="meta", dtype=torch.float16)
            for b, (c, s) in enumerate(zip(layout.channels, layout.strides, strict=True))
        }

    like, largest = torch.empty(32, 1, device="meta", dtype=torch.float16), 0
    for _ in range(4):  # steps
        for begin in range(0, 64, 16):
            options = {"cond_or_uncond": [0, 1], "ad_params": {"sub_idxs": list(range(begin, begin + 16))}}
            at = pack.run.Picture.of(torch.Size([32, 4, 64, 64]), options, False)
            (group,) = patch.run.folded([patch], at, like)
            for b, s in enumerate(tuner.layout.strides):
                group.block(b, 32, (64 // s, 64 // s))
            largest = max(largest, kept(patch.run))
    assert 0.3 * GIB < largest <= 0.7 * GIB
    # Windows in a circle do not push each other out: the first is encoded once, the other three in each of four steps.
    assert made.count(tuple(range(16))) == 1
    assert len(made) == 1 + 3 * 4


def test_what_finds_no_room_is_made_again_bit_for_bit(pack, monkeypatch):
    """Areas that take turns inside a step, with room for all and with room for one."""
    model, control, noise = small_model(), csc_tuner(pack), noise_of(1, 16, 32)
    area = {"area": (16, 16, 0, 16), "strength": 1.0, "set_area_to_bounds": False}
    edited = apply_csc(pack, apply_sc(pack, model, sc_tuner(pack), mask=torch.rand(1, 64, 64)), control)

    def found():
        return sample(edited, prompt(1) + prompt(7, **area), noise=noise, steps=4)

    with EncodeCount(control) as encodings:
        roomy = found()
        assert encodings.count == 2
        monkeypatch.setattr(pack.run, "BUDGET", 0)
        assert torch.equal(found(), roomy)
        assert encodings.count == 2 + 1 + 4


def test_what_is_no_longer_asked_for_is_let_go(pack, model):
    """A size that comes no more gives its room to one that does, however small the budget."""
    patch = apply_sc(pack, model, sc_tuner(pack)).model_options["transformer_options"]["patches"]["output_block_patch"][
        0
    ]
    like, picked = torch.zeros(1, 1), pack.run.Picture
    for size, times in ((16, 5), (24, 12), (32, 12)):
        for _ in range(times):
            patch.run.folded([patch], picked.of(torch.Size([1, 4, size, size]), {}, False), like)
    (state,) = patch.run._states.values()
    assert {key[1] for key in state._entries} == {(24, 24), (32, 32)}


@pytest.mark.parametrize("route", ["model", "control"])
def test_unloading_in_mid_run_frees_and_changes_nothing(pack, model, route):
    control, prompts, edited = csc_tuner(pack), (None, None), apply_sc(pack, model, sc_tuner(pack))
    if route == "model":
        edited = apply_csc(pack, edited, control)
    else:
        prompts = control_prompts(control)
    expected, freed = sample(edited, *prompts, steps=4), []

    def unload(step, *_):
        if step == 1:
            assert kept(forwards.runs[-1]) > 0
            control.tuner.patcher.detach()
            freed.append(kept(forwards.runs[-1]))

    with Forwards(pack) as forwards, EncodeCount(control) as encodings:
        assert torch.equal(sample(edited, *prompts, steps=4, callback=unload), expected)
    assert freed == [0]
    assert encodings.count == 2


def test_strengths_that_change_between_steps(pack, model):
    control = csc_tuner(pack)
    positive, negative = control_prompts(control, strength=0.2)
    applied = positive[0][1]["control"]

    def change(step, *_):
        applied.strength = 0.9

    changed = sample(model, positive, negative, steps=2, callback=change)
    applied.strength = 0.2
    first: list[torch.Tensor] = []
    sample(model, positive, negative, steps=2, callback=lambda step, denoised, x, total: first.append(denoised.clone()))
    again: list[torch.Tensor] = []
    applied.strength = 0.2

    def change_and_note(step, denoised, x, total):
        applied.strength = 0.9
        again.append(denoised.clone())

    assert torch.equal(sample(model, positive, negative, steps=2, callback=change_and_note), changed)
    assert torch.equal(again[0], first[0])
    assert relative(again[1], first[1]) > 1e-4  # at the last step, where noise is low


@pytest.mark.parametrize("route", ["model", "control"])
def test_nan_in_a_hint_is_told(pack, model, route):
    control, image = csc_tuner(pack), picture()
    image[0, 3, 4, 1] = float("nan")
    edited, prompts = model, control_prompts(control, image)
    if route == "model":
        edited, prompts = apply_csc(pack, model, control, image), (None, None)
    with pytest.raises(pack.core.HintError, match=r"expected numbers in 0\.\.1, found NaN or infinity") as refusal:
        sample(edited, *prompts)
    assert control.tuner.name in str(refusal.value)
    assert sample(apply_csc(pack, model, control)).isfinite().all()


@pytest.mark.parametrize(("apply", "tuner"), [(apply_sc, sc_tuner), (apply_csc, csc_tuner)], ids=["SC", "CSC"])
def test_nan_in_a_mask_is_told(pack, model, apply, tuner):
    mask = torch.ones(1, 64, 64)
    mask[0, 3, 3] = float("nan")
    with pytest.raises(pack.core.HintError, match=r"mask: expected numbers in 0\.\.1, found NaN or infinity"):
        apply(pack, model, tuner(pack), mask=mask)


def test_concurrent_forwards_on_one_device(pack, model):
    """Ten threads, ten thousand forwards of blocks in all, with states that are made, used and dropped meanwhile."""
    control = csc_tuner(pack)
    edited = apply_csc(pack, apply_sc(pack, model, sc_tuner(pack), mask=torch.rand(1, 64, 64)), control)
    patches = edited.model_options["transformer_options"]["patches"]["output_block_patch"]
    run, errors, results = patches[0].run, [], set()
    skip = torch.randn(2, 128, 2, 2, generator=torch.Generator().manual_seed(1))

    def work(seed: int) -> None:
        try:
            with torch.inference_mode():
                for i in range(1000):
                    options = {
                        "patches": {"output_block_patch": patches},
                        "cond_or_uncond": [0, 1],
                        "block": ("output", 0),
                    }
                    forward = pack.forward.Forward.of(patches, torch.empty(2, 4, 16, 16, device="meta"), options)
                    results.add(float(forward(None, skip, options)[1].sum()))
                    if i % 250 == seed:
                        run.drop()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(results) == 1


def test_order_changes_no_bit_even_between_two_hints_of_one_tuner(pack, model):
    control, images = csc_tuner(pack), [picture(seed=5), picture(seed=6)]
    found = [
        sample(apply_csc(pack, apply_csc(pack, model, control, images[a], 0.5), control, images[b], 0.5))
        for a, b in ((0, 1), (1, 0))
    ]
    assert torch.equal(*found)
    styles = [sc_tuner(pack, 21), sc_tuner(pack, 22)]
    found = [
        sample(apply_sc(pack, apply_csc(pack, apply_sc(pack, model, styles[a], 0.5), control), styles[b], 0.5))
        for a, b in ((0, 1), (1, 0))
    ]
    assert torch.equal(*found)
