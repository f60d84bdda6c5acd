"""Training on the MODEL that is stopped, fails or is refused: one sentence, and nothing lost."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shutil
from pathlib import Path

import comfy.model_management
import comfy.ops
import pytest
import torch
from conftest import PACK_NAME
from run_left import distance, events
from small_model import prompt, small_model
from small_tuners import sc_tuner
from train_on_model_widgets import latents


def test_cancel_saves_and_queueing_again_resumes_to_the_same_tuner(pack, train, folders, monkeypatch):
    given = {"latents": latents(3), "positive": [prompt(i) for i in range(3)], "steps": 6}
    undisturbed = train(small_model(), name="other", **given)[0].tuner
    loop = importlib.import_module(f"{PACK_NAME}.scedit_core.fitting.loop")
    original = loop.update

    def update(run):
        done = original(run)
        if run.step == 3:
            comfy.model_management.interrupt_current_processing()
        return done

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(small_model(), **given)
    monkeypatch.setattr(loop, "update", original)
    assert not comfy.model_management.processing_interrupted()
    assert (folders / "output" / "scedit" / "style" / "checkpoints" / "step-000003").is_dir()
    assert not (folders / "scedit" / "style.safetensors").exists()
    sc, _, losses, steps = train(small_model(), **given)
    assert (len(losses["loss"]), steps) == (6, 6)
    assert events(folders, "plan")[-1]["first_step"] == 3
    assert distance(sc.tuner, undisturbed) == 0
    assert (folders / "output" / "scedit" / "style" / "report.html").is_file()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["forward", "backward"])
def test_cancel_amid_an_update_saves_those_before_it(pack, train, folders, checkpointing):
    """Newer hosts raise it out of a layer; older ones let the update end, and the wish is seen after it.

    Without a wish every second of 8 updates is saved.
    """
    given = {"latents": latents(3), "positive": [prompt(i) for i in range(3)], "steps": 8}
    given["checkpointing"] = checkpointing
    undisturbed = train(small_model(), name="other", **given)[0].tuner
    model, passes = small_model(), []

    def cancel(_layer, _given):
        passes.append(1)
        if len(passes) == 4 * (1 + checkpointing):  # the decoder of the fourth update, or its second run for gradients
            comfy.model_management.interrupt_current_processing()

    hook = model.model.diffusion_model.output_blocks[3][0].in_layers[2].register_forward_pre_hook(cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, **given)
    hook.remove()
    reached = 3 if hasattr(comfy.ops, "run_every_op") else 4
    saved = sorted(path.name for path in (folders / "output" / "scedit" / "style" / "checkpoints").iterdir())
    assert saved == ["step-000002", f"step-00000{reached}"]
    assert [event["reason"] for event in events(folders, "stopped")] == ["Cancel"]
    sc, *_ = train(small_model(), **given)
    assert events(folders, "plan")[-1]["first_step"] == reached
    assert distance(sc.tuner, undisturbed) == 0


def test_out_of_memory_is_one_sentence_and_the_next_training_works(train, monkeypatch):
    given = {"latents": latents(2), "positive": [prompt(1)], "steps": 2}
    loop = importlib.import_module(f"{PACK_NAME}.scedit_core.fitting.loop")

    def full(run):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", full)
        with pytest.raises(Exception, match="expected room for 2 pictures a step, found too little; turn"):
            train(small_model(), **given)
    assert train(small_model(), **given)[3] == 2


def test_a_loss_that_is_no_number_stops_and_says_so_in_words_of_the_node(train):
    bad = [{"samples": torch.full((1, 4, 8, 8), float("nan"))}]
    said = "step 1: expected a finite loss, found nan; lower learning_rate or use precision bf16"
    with pytest.raises(Exception, match=said):
        train(small_model(), latents=bad, positive=[prompt(1)], batch=1)


@pytest.fixture
def full_disk(monkeypatch):
    """A folder, chosen by the test, where nothing fits any more: what is written there fails as on a full disk."""
    full = []
    fsync = os.fsync

    def no_room(file) -> None:
        place = os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
        if any(place.startswith(str(folder)) for folder in full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", no_room)
    return full


def test_a_full_disk_loses_no_step(train, folders, full_disk):
    """Of checkpoints: the last is kept elsewhere, and resumes from the place that the sentence names."""
    given = {"latents": latents(3), "positive": [prompt(i) for i in range(3)]}
    undisturbed = train(small_model(), name="other", steps=6, **given)[0].tuner
    checkpoints = folders / "output" / "scedit" / "style" / "checkpoints"
    full_disk.append(checkpoints)
    with pytest.raises(Exception, match="No space left on device") as caught:
        train(small_model(), steps=6, **given)
    full_disk.clear()
    assert not (folders / "scedit" / "style.safetensors").exists()
    said = re.search(r"step 1 is kept in (\S+); move that folder beside the other checkpoints", str(caught.value))
    kept = Path(said.group(1))
    shutil.move(kept, checkpoints / kept.name)
    sc = train(small_model(), steps=6, **given)[0]
    assert events(folders, "plan")[-1]["first_step"] == 1
    assert distance(sc.tuner, undisturbed) == 0


def test_a_full_disk_of_tuners_is_mended_by_queueing_again(train, folders, full_disk):
    """Nothing is trained a second time."""
    given = {"latents": latents(2), "positive": [prompt(1)], "steps": 3}
    full_disk.append(folders / "scedit")
    with pytest.raises(Exception, match=r"style.safetensors: expected to write the file there, .*No space left"):
        train(small_model(), **given)
    full_disk.clear()
    assert train(small_model(), **given)[3] == 3
    assert [plan["first_step"] for plan in events(folders, "plan")] == [0, 3]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "expected latents or a folder of pictures, found neither"),
        ({"folder": "nowhere"}, "expected latents or a folder of pictures, found none at"),
        ({"latents": "two"}, "positive: expected the captions of the latents, found none"),
        ({"latents": "two", "positive": 3}, "expected one caption for each of 2 pictures, or one for all, found 3"),
        ({"latents": "channels", "positive": 1}, "expected 4 channels"),
        ({"latents": "two", "positive": 1, "kind": "own hints"}, "expected hints of your own for this kind"),
        ({"latents": "two", "positive": 1, "kind": "own hints", "hints": (3, 64, 64)}, "one for each of 2 pictures"),
        ({"latents": "two", "positive": 1, "kind": "own hints", "hints": (2, 64, 96)}, "64x64 as its picture"),
        ({"latents": "two", "positive": 1, "kind": "canny"}, "found latents alone"),
    ],
)
def test_inputs_that_cannot_be_trained_on_are_refused_in_a_sentence(train, given, sentence):
    given = dict(given)
    if given.get("latents") == "two":
        given["latents"] = latents(2)
    elif "latents" in given:
        given["latents"] = [{"samples": torch.zeros(2, 16, 8, 8)}]
    if "positive" in given:
        given["positive"] = [prompt(i) for i in range(given["positive"])]
    if "hints" in given:
        given["hints"] = [torch.rand(*given["hints"], 3)]
    with pytest.raises(Exception, match=sentence):
        train(small_model(), **given)


def test_a_tuner_of_that_name_is_not_overwritten(pack, train, folders):
    path = folders / "scedit" / "style.safetensors"
    pack.core.save_tuner(sc_tuner(pack).tuner, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="name: expected one that no other tuner has"):
        train(small_model(), latents=latents(2), positive=[prompt(1)])
    assert path.read_bytes() == before
