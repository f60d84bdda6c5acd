"""Masks, hints and batches on a real host: rows, sizes, channels, and one encoding in a run."""

from __future__ import annotations

import hashlib

import comfy.context_windows
import comfy.patcher_extension
import comfy.utils
import pytest
import torch
from small_model import noise_of, picture, prompt, relative, sample, small_model
from small_tuners import EncodeCount, Forwards, apply_csc, apply_sc, control_prompts, csc_tuner, kept, sc_tuner


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def base(model):
    with torch.inference_mode():
        return sample(model)


def test_masks_of_zero_one_and_half(pack, model, base):
    tuner, control, image = sc_tuner(pack), csc_tuner(pack), picture()
    for edited in (
        lambda **kw: sample(apply_sc(pack, model, tuner, **kw)),
        lambda **kw: sample(apply_csc(pack, model, control, image, **kw)),
    ):
        whole = edited()
        assert torch.equal(edited(mask=torch.zeros(1, 100, 100)), base)
        assert torch.equal(edited(mask=torch.ones(1, 100, 100)), whole)
        halved = edited(mask=torch.full((1, 64, 64), 0.5))
        assert relative(halved, edited(strength=0.5)) < 1e-5


def test_masks_of_other_shapes(pack, model):
    """[H,W] is one mask, a channel of one is none; what is no mask, or no mask at all, is told by the node."""
    tuner = sc_tuner(pack)
    mask = torch.rand(32, 24, generator=torch.Generator().manual_seed(8))
    expected = sample(apply_sc(pack, model, tuner, mask=mask[None]), steps=1)
    assert relative(expected, sample(apply_sc(pack, model, tuner), steps=1)) > 0.02
    for same in (mask, mask[None, None], mask[None, ..., None]):
        assert torch.equal(sample(apply_sc(pack, model, tuner, mask=same), steps=1), expected)
    two = torch.stack([mask, 1 - mask])
    pair = sample(apply_sc(pack, model, tuner, mask=two), noise=noise_of(2), steps=1)
    for same in (two[:, None], two[..., None]):
        assert torch.equal(sample(apply_sc(pack, model, tuner, mask=same), noise=noise_of(2), steps=1), pair)
    for shape in ((0, 32, 24), (32,), (1, 3, 32, 24), (1, 32, 24, 3), (0, 1, 32, 24), (1, 0, 24), (1, 1, 1, 32, 24)):
        for apply in (
            lambda mask: apply_sc(pack, model, tuner, mask=mask),
            lambda mask: apply_csc(pack, model, csc_tuner(pack), mask=mask),
        ):
            with pytest.raises(pack.core.HintError, match="mask: expected at least one mask") as refusal:
                apply(torch.ones(shape))
            assert str(list(shape)) in str(refusal.value)


def test_a_mask_works_where_it_is(pack, model):
    """At the shallowest skip alone, half of the picture stays as it was up to the reach of the last convolutions."""
    weights = pack.nodes["SCEditBlockWeights"].execute("custom", ",".join(["0"] * 11 + ["1"])).args[0]
    mask = torch.zeros(1, 128, 256)
    mask[:, :, :128] = 1
    noise = noise_of(1, 16, 32)
    base = sample(model, noise=noise, steps=1)
    found = sample(apply_sc(pack, model, sc_tuner(pack), mask=mask, block_weights=weights), noise=noise, steps=1)
    change = (found - base).abs().mean(dim=(0, 1, 2))
    assert change[:16].mean() > 3 * change[24:].mean()


def test_a_masked_prompt_of_the_host(pack, model, base):
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :64] = 1
    positive, _ = control_prompts(csc_tuner(pack))
    masked = [[c, {**options, "mask": mask, "set_area_to_bounds": False}] for c, options in positive]
    found = sample(model, prompt(1) + masked)
    assert found.isfinite().all()
    assert relative(found, base) > 0.01


@pytest.mark.parametrize("route", ["model", "control"])
def test_one_hint_encoding_in_a_run(pack, model, route):
    control, image = csc_tuner(pack), picture()
    if route == "model":
        edited, prompts = apply_csc(pack, model, control, image), (None, None)
    else:
        edited, prompts = model, control_prompts(control, image)
    with EncodeCount(control) as encodings:
        first = sample(edited, *prompts, steps=4)
        assert encodings.count == 1
        assert torch.equal(sample(edited, *prompts, steps=4), first)  # queued again
        assert encodings.count == 2
        sample(edited, *prompts, noise=noise_of(1, 24, 16))  # a new size
        assert encodings.count == 3
        other = picture(seed=77)
        if route == "model":
            found = sample(apply_csc(pack, model, control, other), steps=4)
        else:
            found = sample(model, *control_prompts(control, other), steps=4)
        assert encodings.count == 4
        assert relative(found, first) > 0.01


def test_a_tuner_twice_in_a_chain_is_told_apart_by_hints_that_are_read_once(pack, model, monkeypatch):
    """Not in each step: a large hint takes tens of milliseconds."""
    control, images, read, digest = csc_tuner(pack), [picture(1), picture(1).flip(1)], [], hashlib.blake2b
    monkeypatch.setattr(hashlib, "blake2b", lambda shown: read.append(len(shown)) or digest(shown))
    found = []
    for first, second in (images, images[::-1]):
        positive, negative = control_prompts(control, first)
        prompts = control_prompts(control, second, positive=positive, negative=negative)
        found.append(sample(model, *prompts, steps=3))
    assert len(read) == 2 * 2
    assert torch.equal(*found)  # in whatever order


@pytest.mark.parametrize("route", ["model", "control"])
def test_the_hint_is_dropped_after_the_run(pack, model, route):
    control = csc_tuner(pack)
    edited, (positive, negative) = model, (None, None)
    if route == "model":
        edited = apply_csc(pack, model, control)
    else:
        positive, negative = control_prompts(control)
    seen = []
    with Forwards(pack) as forwards:
        sample(edited, positive, negative, callback=lambda *_: seen.append(kept(forwards.runs[0])))
    assert len(set(map(id, forwards.runs))) == 1
    assert min(seen) > 0
    assert kept(forwards.runs[0]) == 0


@pytest.mark.parametrize("route", ["model", "control"])
def test_a_batch_of_three_with_three_hints(pack, model, route):
    """Each picture of the batch is that of a run of its own."""
    control, images, noise = csc_tuner(pack), picture(3), noise_of(3)

    def found(image, noise):
        if route == "model":
            return sample(apply_csc(pack, model, control, image), noise=noise)
        return sample(model, *control_prompts(control, image), noise=noise)

    batch = found(images, noise)
    for i in range(3):
        assert relative(batch[i : i + 1], found(images[i : i + 1], noise[i : i + 1])) < 1e-4
    one = found(images[:1], noise)  # one hint serves all
    assert relative(one[2:], found(images[:1], noise[2:])) < 1e-4
    fewer = found(images[:2], noise)  # two hints for three pictures: they start again
    assert relative(fewer[2:], found(images[:1], noise[2:])) < 1e-4
    more = found(images, noise[:2])  # three hints for two pictures: the third is left out
    assert relative(more, batch[:2]) < 1e-4


@pytest.mark.parametrize("route", ["model", "control"])
def test_context_windows_take_their_own_hints(pack, route):
    """Windows of 2 over 4 pictures, no overlap: each picture again that of a run of its own.

    3 steps have 4 noise levels, as many as pictures: v0.3.64 compares them one by one and cannot do with others.
    """
    model, control, images, noise = small_model(), csc_tuner(pack), picture(4), noise_of(4)
    windows = comfy.context_windows
    handler = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule("standard_static"),
        fuse_method=windows.get_matching_fuse_method("flat"),
        context_length=2,
        context_overlap=0,
        dim=0,
    )
    windowed = model.clone()
    windowed.model_options["context_handler"] = handler

    def found(m, image, noise):
        if route == "model":
            return sample(apply_csc(pack, m, control, image), noise=noise, steps=3)
        return sample(m, *control_prompts(control, image), noise=noise, steps=3)

    with EncodeCount(control) as encodings:
        batch = found(windowed, images, noise)
        # Each picture of each window once, not in each step; newer hosts put an anchor before the second window.
        assert encodings.count in (4, 5)
    for i in (0, 1, 2, 3):
        assert relative(batch[i : i + 1], found(model, images[i : i + 1], noise[i : i + 1])) < 1e-4


def test_windows_of_animatediff_evolved_take_their_own_hints_and_masks(pack, model):
    """That pack cuts the batch up around the host's `calc_cond_batch` and names the frames in `ad_params`."""
    control, images, noise = csc_tuner(pack), picture(4), noise_of(4)
    masks = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(8))
    windowed = model.clone()
    windowed.model_options["transformer_options"]["ad_params"] = {"sub_idxs": None, "full_length": 4}

    def in_windows(calc, base_model, conds, x, t, options):
        found = []
        for window in ([0, 1], [2, 3]):
            options["transformer_options"]["ad_params"]["sub_idxs"] = window
            found.append(calc(base_model, conds, x[window], t[window], options))
        return [torch.cat(each) for each in zip(*found, strict=True)]

    windowed.add_wrapper(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, in_windows)
    batch = sample(apply_csc(pack, windowed, control, images, mask=masks), noise=noise)
    for i in range(4):
        alone = apply_csc(pack, model, control, images[i : i + 1], mask=masks[i : i + 1])
        assert relative(batch[i : i + 1], sample(alone, noise=noise[i : i + 1])) < 1e-4


@pytest.mark.parametrize("params", [None, {}, {"sub_idxs": None}])
def test_animatediff_evolved_without_windows(pack, params):
    assert pack.hints.batch_rows(4, 2, {"ad_params": params}) == (0, 1)


def test_a_pack_that_samples_in_windows_names_the_pictures(pack, model):
    control, images = csc_tuner(pack), picture(4)
    positive, negative = control_prompts(control, images)
    applied, noise = positive[0][1]["control"], noise_of(2)
    original = applied.get_control

    def get_control(*args):
        applied.sub_idxs = [2, 3]
        return original(*args)

    applied.get_control = get_control
    found = sample(model, positive, negative, noise=noise)
    assert not hasattr(applied, "sub_idxs")
    expected = sample(model, *control_prompts(control, images[2:]), noise=noise)
    assert relative(found, expected) < 1e-5


def test_a_tiled_sampler_puts_in_its_own_hint(pack, model):
    """Tilers set `cond_hint` for each tile before they ask for the control; that hint is the one in use."""
    control, tile = csc_tuner(pack), picture(seed=91)
    positive, negative = control_prompts(control, picture(1, 512, 512))
    applied = positive[0][1]["control"]

    def tiler(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"])

    tiled = model.clone()
    tiled.set_model_unet_function_wrapper(tiler)
    original = applied.get_control

    def get_control(*args):
        applied.cond_hint = tile.movedim(-1, 1)
        return original(*args)

    applied.get_control = get_control
    found = sample(tiled, positive, negative)
    assert relative(found, sample(model, *control_prompts(control, tile))) < 1e-6


@pytest.mark.parametrize("size", [(37, 53), (16, 24), (9, 11)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_odd_latent_sizes(pack, model, size, kernel):
    control = csc_tuner(pack, kernel=kernel)
    noise, image = noise_of(1, *size), picture(1, 8 * size[0], 8 * size[1])
    by_control = sample(model, *control_prompts(control, image), noise=noise, steps=1)
    by_model = sample(apply_csc(pack, model, control, image), noise=noise, steps=1)
    assert by_control.isfinite().all()
    assert relative(by_model, by_control) < 1e-6


def test_hints_with_alpha_and_in_grey(pack, model):
    control, image = csc_tuner(pack), picture()
    expected = sample(model, *control_prompts(control, image))
    alpha = torch.cat([image, torch.rand(1, 128, 128, 1)], dim=-1)
    assert torch.equal(sample(model, *control_prompts(control, alpha)), expected)
    grey = image[..., :1]
    found = sample(apply_csc(pack, model, control, grey))
    assert relative(found, sample(model, *control_prompts(control, grey.expand(-1, -1, -1, 3)))) < 1e-6


def test_an_empty_batch_of_hints_is_refused(pack, model):
    empty = torch.zeros(0, 128, 128, 3)
    with pytest.raises(pack.core.HintError, match="expected at least one image, found a batch of shape"):
        apply_csc(pack, model, csc_tuner(pack), empty)
    with pytest.raises(pack.core.HintError, match="expected at least one image"):
        sample(model, *control_prompts(csc_tuner(pack), empty))


def test_resize_modes(pack):
    wide = torch.arange(8.0).reshape(1, 1, 1, 8).expand(1, 3, 4, 8)
    old = csc_tuner(pack).tuner  # whose metadata say of no fitting
    fitted = {mode: pack.hints.resized(wide, 8, 8, mode, old)[0, 0] for mode in pack.hints.RESIZE_MODES}
    for mode, crop in (("stretch", "disabled"), ("crop", "center")):
        assert torch.equal(fitted[mode], comfy.utils.common_upscale(wide, 8, 8, "nearest-exact", crop)[0, 0])
    assert fitted["stretch"][0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert fitted["crop"][0].tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    assert fitted["pad"][:2].abs().sum() == 0
    assert fitted["pad"][2].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert fitted["pad"][6:].abs().sum() == 0
