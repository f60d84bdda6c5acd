"""Weights and hint features belong to the host: one copy, loaded and freed by it, nothing left by a broken run."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import comfy.model_management
import pytest
import torch
from small_model import noise_of, picture, relative, sample, small_model
from small_tuners import EncodeCount, Forwards, apply_csc, apply_sc, control_prompts, csc_tuner, kept, sc_tuner


@pytest.fixture
def model():
    return small_model()


def loaded_models() -> list:
    return [loaded.model for loaded in comfy.model_management.current_loaded_models]


def test_a_chain_of_five_clones_has_one_patcher_and_one_storage(pack, model):
    tuner, control = sc_tuner(pack), csc_tuner(pack)
    chained = apply_csc(pack, apply_sc(pack, model, tuner), control)
    for i in range(5):
        chained = chained.clone()
        chained.set_model_sampler_post_cfg_function(lambda args, i=i: args["denoised"])
    patches = chained.model_options["transformer_options"]["patches"]["output_block_patch"]
    assert [patch.tuner for patch in patches] == [tuner, control.tuner]
    assert set(map(id, chained.model_patches_models())) == {id(tuner.patcher), id(control.tuner.patcher)}
    assert len({id(patch.run) for patch in patches}) == 1
    assert copy.deepcopy(patches[0]) is patches[0]
    copied = copy.deepcopy(control)
    assert copied.tuner is control.tuner


def test_the_host_holds_the_encoder_and_counts_the_whole_tuner(pack):
    """The adapters' weights are folded by runs; nothing else puts them on a device."""
    merged = pack.nodes["SCEditMergeSCTuners"].execute(sc_tuner(pack, 1), 1.0, sc_tuner(pack, 2), 1.0).args[0]
    control = csc_tuner(pack).tuner
    for each in (merged, control):
        assert each.patcher.model_size() == sum(p.nbytes for p in each.tuner.parameters())
        assert "tuners" not in dict(each.patcher.model.named_children())
    assert list(merged.patcher.model.parameters()) == []
    running = {p.untyped_storage().data_ptr() for p in control.encoder.parameters()}
    assert running == {p.untyped_storage().data_ptr() for p in control.tuner.hint.parameters()}


def test_a_file_overwritten_in_place_does_not_reach_a_loaded_tuner(pack, model, models_folder):
    path = pack.core.save_tuner(sc_tuner(pack).tuner, models_folder / "scedit" / "style.safetensors")
    loaded = pack.nodes["SCEditLoadSCTuner"].execute("style.safetensors").args[0]
    edited = apply_sc(pack, model, loaded)
    first = sample(edited)
    with open(path, "r+b") as file:
        file.truncate(100)
    path.unlink()
    assert torch.equal(sample(edited), first)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mapped files")
def test_on_windows_no_file_stays_mapped(pack, models_folder, monkeypatch):
    """There it could not be replaced, at the end of a training under the same name."""
    path = pack.core.save_tuner(sc_tuner(pack).tuner, models_folder / "held.safetensors")
    loaded = pack.core.load_tuner(path)
    expected = {name: p.clone() for name, p in loaded.named_parameters()}
    assert str(path) in Path("/proc/self/maps").read_text()
    monkeypatch.setattr("sys.platform", "win32")
    held = pack.managed.ManagedTuner(loaded, path.name, str(path))
    monkeypatch.undo()
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert all(torch.equal(p, expected[name]) for name, p in held.tuner.named_parameters())


def test_controls_share_one_patcher(pack):
    control = csc_tuner(pack)
    (positive, _), (other, _) = control_prompts(control), control_prompts(control, picture(seed=9))
    first, second = positive[0][1]["control"], other[0][1]["control"]
    assert first is not second
    assert first.run is not second.run
    assert first.get_models() == second.get_models() == [control.tuner.patcher]


def test_the_host_loads_tuners_and_frees_them(pack, model):
    tuner, control = sc_tuner(pack), csc_tuner(pack)
    during: list[set[int]] = []
    edited = apply_sc(pack, model, tuner)
    sample(edited, *control_prompts(control), callback=lambda *_: during.append({id(m) for m in loaded_models()}))
    assert {id(tuner.patcher), id(control.tuner.patcher)} <= during[0]
    comfy.model_management.unload_all_models()
    assert loaded_models() == []
    gone = [weakref.ref(tuner.tuner), weakref.ref(tuner.patcher.model), weakref.ref(control.tuner.encoder)]
    del tuner, control, edited
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


class Stop(Exception):
    """Stands for an interruption or an error in the middle of a run."""


@pytest.mark.parametrize("route", ["model", "control"])
@pytest.mark.parametrize("kind", ["error", "interrupt"])
@pytest.mark.parametrize("at", [0, 1], ids=["first step", "middle step"])
def test_a_clean_run_after_a_broken_one(pack, model, route, kind, at):
    control, other = csc_tuner(pack), picture(seed=6)
    edited, prompts = model, control_prompts(control)
    if route == "model":
        edited, prompts = apply_csc(pack, apply_sc(pack, model, sc_tuner(pack)), control), (None, None)
    undisturbed = sample(edited, *prompts, steps=4)

    def stop(step, *_):
        if step == at:
            assert kept(forwards.runs[-1]) > 0
            if kind == "error":
                raise Stop
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()

    expected = Stop if kind == "error" else comfy.model_management.InterruptProcessingException
    with pytest.raises(expected), Forwards(pack) as forwards:
        sample(edited, *prompts, steps=4, callback=stop, noise=noise_of(1, 24, 16))
    assert kept(forwards.runs[0]) == 0
    with EncodeCount(control) as encodings, Forwards(pack) as forwards:
        assert torch.equal(sample(edited, *prompts, steps=4), undisturbed)
        assert encodings.count == 1
    assert kept(forwards.runs[0]) == 0
    if route == "control":
        assert relative(sample(model, *control_prompts(control, other), steps=4), undisturbed) > 0.01


def test_a_control_that_is_gone_after_a_broken_run_is_unloaded(pack, model):
    """What the run kept must not be its last holder, which the host lets go while it walks through its list."""

    def broken_run() -> None:  # after which nothing of the test holds the control
        def stop(*_):
            raise Stop

        with pytest.raises(Stop):
            sample(model, *control_prompts(csc_tuner(pack)), callback=stop)

    broken_run()
    comfy.model_management.unload_all_models()
    assert comfy.model_management.current_loaded_models == []


def test_the_base_is_untouched_by_what_ran_on_it(pack, model):
    base = sample(model)
    before = copy.deepcopy(model.model_options)
    sample(apply_sc(pack, model, sc_tuner(pack)), *control_prompts(csc_tuner(pack)))
    assert model.model_options == before
    assert torch.equal(sample(model), base)


def test_a_copy_for_a_second_device(pack, model):
    control = csc_tuner(pack)
    positive, negative = control_prompts(control)
    applied = positive[0][1]["control"]
    expected = sample(model, positive, negative)
    clone = applied.deepclone_multigpu(torch.device("cpu"))
    assert clone.run is not applied.run
    assert clone.tuner.patcher is not control.tuner.patcher
    assert clone.tuner.patcher.load_device == torch.device("cpu")
    positive[0][1]["control"] = negative[0][1]["control"] = clone
    assert torch.equal(sample(model, positive, negative), expected)


def test_weights_that_the_host_leaves_behind(pack, model):
    """Low VRAM: the host loads next to nothing of the encoder, and its layers fetch the rest at each use."""
    control = csc_tuner(pack).tuner
    hint = picture().movedim(-1, 1)
    expected = control.encoder(hint)
    control.patcher.patch_model(torch.device("cpu"), lowvram_model_memory=1)
    assert control.encoder.model_lowvram
    assert all(torch.equal(a, b) for a, b in zip(control.encoder(hint), expected, strict=True))
    layers = [m for m in control.encoder.modules() if list(m.parameters(recurse=False))]
    assert all(hasattr(layer, "comfy_cast_weights") for layer in layers)
    control.patcher.detach()


def test_a_mask_is_resized_once_in_a_run(pack, model, monkeypatch):
    calls: list[tuple] = []
    original = pack.folding.fitted_mask
    monkeypatch.setattr(pack.folding, "fitted_mask", lambda *args: calls.append(args[2]) or original(*args))
    sample(apply_sc(pack, model, sc_tuner(pack), mask=torch.rand(1, 64, 64)))
    assert len(calls) == 12  # once for each block
    assert set(calls) == {(16, 16), (8, 8), (4, 4), (2, 2)}


def test_batches_of_masks_go_with_batches_of_pictures(pack, model):
    tuner, noise = sc_tuner(pack), noise_of(2)
    masks = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])
    found = sample(apply_sc(pack, model, tuner, mask=masks), noise=noise)
    assert relative(found[:1], sample(model, noise=noise[:1])) < 1e-5
    assert relative(found[1:], sample(apply_sc(pack, model, tuner), noise=noise[1:])) < 1e-5
    positive = sample(apply_sc(pack, model, tuner, mask=masks, side="positive"), noise=noise)
    assert relative(positive[1:], sample(apply_sc(pack, model, tuner, side="positive"), noise=noise[1:])) < 1e-5
