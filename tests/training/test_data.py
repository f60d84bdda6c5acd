"""Folders to batches: what a step sees, in which order, and how pictures, hints, masks and sizes stay together."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_core.errors import ConditionError, DataError
from scedit_core.pictures.framing import Framing
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.opening import open_data


@pytest.fixture(scope="module")
def base(base_folder):
    return load_base(base_folder)


def gradient(size, seed=0):
    """A picture whose red tells the place across and whose green tells the place down."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 255 // max(width - 1, 1), rows * 255 // max(height - 1, 1), rows * 0 + seed], -1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Eleven pictures of three shapes with captions."""
    folder = tmp_path / "set"
    (folder / "deeper").mkdir(parents=True)
    for i in range(11):
        size = [(160, 160), (300, 150), (150, 300)][0 if i < 6 else 1 if i < 9 else 2]
        where = folder / "deeper" if i % 2 else folder
        gradient(size, 20 * i).save(where / f"{i:02d}.png")
        (where / f"{i:02d}.txt").write_text(f"number {i}")
    return folder


def make(values, base, folder, process=(0, 1), say=lambda event, **values: None, **data):
    values = {**values, "data": {**values["data"], "folder": str(folder), "resolution": 128, **data}}
    return open_data(base, parse_config(values), say, process)


def same(a, b):
    for name in ("latents", "sizes", "hints", "masks", "weights"):
        x, y = getattr(a, name), getattr(b, name)
        if not (x is None and y is None) and not torch.equal(x, y):
            return False
    return torch.equal(a.text.states, b.text.states)


def test_a_frame_is_the_same_part_of_a_picture_of_any_size():
    framing = Framing((300, 150), (128, 128))
    assert framing.box((300, 150)) == (75, 0, 225, 150)
    assert framing.box((600, 300)) == (150, 0, 450, 300)
    assert framing.kept == 0.5
    assert framing.micro_conditions == (150, 300, 0, 64, 128, 128)
    large, small = (np.array(framing.apply(gradient(size)), float) for size in ((600, 300), (300, 150)))
    assert np.abs(large - small).max() < 6
    assert abs(small[64, 64, 0] - 127.5) < 2
    with pytest.raises(ValueError, match="expected the shape"):
        framing.apply(gradient((300, 300)))


def test_batches_that_repeat_pictures_are_told(values, base, folder):
    values["loop"]["batch"] = 4
    data = make(values, base, folder, resolution=192)  # of 11 pictures 6, 3 and 2 have a size
    (told,) = [remark for remark in data.remarks if "show one several times" in remark.what]
    assert sorted(told.said.values()) == ["128x256", "256x128"]
    assert told.what.startswith("sizes with fewer pictures than a batch, so that 45% of all batches")
    assert "lower loop.batch" in told.advice
    values["loop"]["batch"] = 2
    assert not [remark for remark in make(values, base, folder, resolution=192).remarks if "batch" in remark.what]


def test_a_step_is_one_bucket_and_a_pure_function_of_its_number(values, base, folder):
    data = make(values, base, folder)
    assert len(data.examples) == 11
    assert data.buckets == [(128, 128)]  # 192 x 64 would be three to one
    again = make(values, base, folder)
    for step in (0, 5, 3, 4, 100, 0):
        assert same(data.batch(step, 4), again.batch(step, 4))
    assert not same(data.batch(1, 4), data.batch(2, 4))


def test_buckets_give_batches_of_their_sizes(values, base, folder):
    data = make(values, base, folder, resolution=192)
    assert data.buckets == [(128, 256), (192, 192), (256, 128)]
    shapes = Counter(tuple(data.batch(step, 2).latents.shape[-2:]) for step in range(11))
    assert shapes == {(24, 24): 6, (16, 32): 3, (32, 16): 2}


def test_two_processes_read_disjoint_halves_of_the_one_batch(values, control_values, base, folder, tmp_path):
    values = control_values | {"objective": {"caption_dropout": 0.5, "condition_dropout": 0.5}}
    whole = make(values, base, folder, flip=True, resolution=192)
    halves = [
        make(values | {"run": str(tmp_path / f"rank{r}")}, base, folder, process=(r, 2), flip=True, resolution=192)
        for r in range(2)
    ]
    for step in range(6):
        one = whole.batch(step, 6)
        parts = [half.batch(step, 6, (r, 2)) for r, half in enumerate(halves)]
        for name in ("latents", "hints", "weights"):
            merged = torch.stack([getattr(p, name) for p in parts], 1).flatten(0, 1)
            assert torch.equal(merged, getattr(one, name))
        assert torch.equal(torch.stack([p.text.states for p in parts], 1).flatten(0, 1), one.text.states)


def test_mirrored_rows_mirror_picture_hint_and_mask_together(control_values, base, folder, tmp_path):
    masks = tmp_path / "masks"
    for path in folder.rglob("*.png"):
        target = masks / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Image.fromarray((np.array(image)[..., 0] > 127).astype(np.uint8) * 255).save(target)
    control_values["data"]["condition"] = {"type": "color_palette", "cell": 8}
    data = make(control_values, base, folder, flip=True, masks=str(masks))
    seen = set()
    for step in range(4):
        batch = data.batch(step, 4)
        mirrored = data.draws(step, 4, (4, 16, 16)).mirrored
        for row, flipped in enumerate(mirrored.tolist()):
            brighter_right = batch.hints[row, 0, :, 64:].mean() > batch.hints[row, 0, :, :64].mean()
            assert bool(brighter_right) != flipped
            mask = batch.masks[row, 0]
            assert bool(mask[:, 8:].mean() > mask[:, :8].mean()) != flipped
            seen.add(flipped)
    assert seen == {True, False}
    example = data.held[0]
    plain, flipped = (data._encoder.moments(example, m)[0] for m in (False, True))
    picture = np.array(example.framing.apply(Image.open(example.path)))
    for latents, pixels in ((plain, picture), (flipped, picture[:, ::-1].copy())):
        pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        assert torch.allclose(latents, base.encode_images(pixels)[0], atol=1e-5)


def test_latents_are_drawn_from_mean_and_deviation(values, base, folder):
    data = make(values, base, folder)
    mean, std = torch.randn(4, 16, 16), torch.rand(4, 16, 16) + 0.5
    data._encoder.moments = lambda example, mirrored: (mean, std)
    batch = data.batch(3, 4)
    noise = data.draws(3, 4, (4, 16, 16)).noise
    assert torch.allclose(batch.latents, mean + std * noise)
    assert torch.equal(data.batch_of(data.held[:2]).latents, torch.stack([mean, mean]))


def test_dropout_of_captions_and_conditions(control_values, base, folder):
    control_values["objective"] = {"caption_dropout": 0.25, "condition_dropout": 0.5}
    control_values["data"]["condition"] = {"type": "color_palette", "cell": 8}
    data = make(control_values, base, folder)
    nothing = base.encode_captions([""]).states[0]
    batches = [data.batch(step, 4) for step in range(50)]
    dropped = sum(torch.equal(states, nothing) for batch in batches for states in batch.text.states)
    black = sum(hint.max().item() == 0 for batch in batches for hint in batch.hints)
    assert 25 <= dropped <= 75
    assert 75 <= black <= 125
    plain = data.batch_of(data.held[:4])
    assert all(hint.max() > 0 for hint in plain.hints)
    expected = base.encode_captions([example.caption for example in data.held[:1]]).states
    assert torch.allclose(plain.text.states[:1], expected, atol=1e-5)


def test_ready_hints_are_framed_like_their_pictures(control_values, base, folder, tmp_path):
    hints = tmp_path / "hints"
    for path in folder.rglob("*.png"):
        target = hints / path.relative_to(folder).with_suffix(".webp")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.resize((image.width * 2, image.height * 2)).save(target, lossless=True)
    control_values["data"]["condition"] = {"type": "custom", "name": "copy"}
    data = make(control_values, base, folder, hints=str(hints))
    for example in data.examples:
        picture = torch.from_numpy(np.array(example.framing.apply(Image.open(example.path)))).permute(2, 0, 1) / 255
        assert (data.batch_of([example]).hints[0] - picture).abs().mean() < 0.02
    assert data.framed(data.examples[0].hint.path).shape == (3, 128, 128)


def test_completion_hides_another_part_in_each_step_and_the_same_in_validation(control_values, base, folder):
    control_values["data"]["condition"] = {"type": "completion"}
    data = make(control_values, base, folder)
    hidden = [(data.batch(step, 1).hints == 0).all(1).float().mean().item() for step in range(8)]
    assert len(set(hidden)) > 4
    assert same(data.batch(2, 3), data.batch(2, 3))
    assert same(data.batch_of(data.held[:2]), data.batch_of(data.held[:2]))


def test_ready_hints_of_completion_are_taken_as_they_are(control_values, base, folder, tmp_path):
    for path in folder.rglob("*.png"):
        target = tmp_path / "hints" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            Image.new("RGB", image.size, "white").save(target)
    control_values["data"]["condition"] = {"type": "completion"}
    data = make(control_values, base, folder, hints=str(tmp_path / "hints"), flip=True)
    assert all(data.batch(step, 4).hints.min() == 1 for step in range(3))
    assert data.batch_of(data.held[:2]).hints.min() == 1


def test_transparent_parts_of_a_mask_do_not_count(values, base, folder, tmp_path):
    for path in folder.rglob("*.png"):
        target = tmp_path / "masks" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            mask = Image.new("RGBA", image.size, (255, 255, 255, 0))
            mask.paste((255, 255, 255, 255), (0, 0, image.width, image.height // 2))
        mask.save(target)
    Image.new("RGBA", mask.size, (0, 0, 0, 0)).save(target)  # the last one: nothing would count
    data = make(values, base, folder, masks=str(tmp_path / "masks"))
    masks = data.batch(0, 4).masks
    assert masks[:, :, :8].min() == 1
    assert masks[:, :, 8:].max() == 0
    assert ["expected white where the loss counts" in problem for problem in data.problems] == [True]
    assert len(data.examples) == len(list(folder.rglob("*.png"))) - 1


def test_prior_pictures_keep_their_weight_and_no_trigger_word(values, base, folder, tmp_path):
    prior = tmp_path / "prior"
    prior.mkdir()
    for i in range(11):
        gradient((128, 128), i).save(prior / f"p{i}.png")
        (prior / f"p{i}.caption").write_text("a dog")
    prior = {"folder": str(prior), "weight": 0.5}
    data = make(values, base, folder, prior=prior, caption="sks dog", repeats=3)
    own = [e for e in data.examples if e.weight == 1]
    assert {e.caption for e in own} == {f"sks dog number {i}" for i in range(11)}
    assert {e.caption for e in data.examples if e.weight == 0.5} == {"a dog"}
    weights = torch.cat([data.batch(step, 4).weights for step in range(11)])
    assert Counter(weights.tolist()) == {1.0: 33, 0.5: 11}  # three times each of 11 against 11
    assert all(e.weight == 1 for e in data.held)
    for path in list(folder.rglob("*.png"))[4:]:
        path.unlink()
    data = make(values, base, folder, prior=prior, captions="optional")
    weights = torch.cat([data.batch(step, 1).weights for step in range(23)])
    assert Counter(weights.tolist()) == {1.0: 12, 0.5: 11}  # 4 own pictures, as often as it takes to be half


def test_held_out_pictures_are_not_trained_on(values, base, folder):
    values["validation"] = {"hold_out": 5}
    data = make(values, base, folder)
    assert len(data.held) == 1  # a tenth of eleven
    assert len(data.examples) == 10
    assert data.held[0] not in data.examples
    assert data.unseen
    (note,) = [remark.what for remark in data.remarks if "hold_out" in remark.what]
    assert "expected at least 50 pictures, of which 5 are a tenth, found 11, so that 1 is kept out" in note
    data = make(values, base, folder, resolution=192)
    several = [next(e for e in data.examples if e.bucket == bucket) for bucket in data.buckets]
    with pytest.raises(ValueError, match="one bucket"):
        data.batch_of(several)


def test_a_set_too_small_to_hold_out_of_says_so(values, base, pictures_folder):
    values["validation"] = {"hold_out": 2}
    data = make(values, base, pictures_folder)
    assert data.held == data.examples
    assert not data.unseen
    (note,) = [remark.what for remark in data.remarks if "hold_out" in remark.what]
    assert "expected at least 20 pictures, of which 2 are a tenth, found 5, so that none is kept out" in note
    values["validation"]["hold_out"] = 0
    assert not [remark for remark in make(values, base, pictures_folder).remarks if "hold_out" in remark.what]


def test_a_validation_folder_is_only_measured(values, base, folder, pictures_folder):
    values["validation"] = {"folder": str(pictures_folder), "hold_out": 5}
    data = make(values, base, folder)
    assert data.unseen
    assert len(data.held) == 5
    assert len(data.examples) == 11
    assert data.batch_of(data.held[:2]).latents.shape == (2, 4, 16, 16)


def test_sizes_and_crops_for_sdxl(values, base, folder, monkeypatch):
    data = make(values, base, folder)
    monkeypatch.setattr(type(base), "needs_sizes", True)
    wide = next(e for e in data.examples if e.size == (300, 150))
    assert data.batch_of([wide]).sizes.tolist() == [[150, 300, 0, 64, 128, 128]]
    assert data.batch(0, 4).sizes.shape == (4, 6)


def test_captions_from_metadata_and_other_encodings(values, base, tmp_path):
    folder = tmp_path / "encodings"
    folder.mkdir()
    texts = {"a": "plain café".encode(), "b": "marked café".encode("utf-8-sig"), "c": "wide café".encode("utf-16")}
    for name, data in texts.items():
        gradient((64, 64)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_bytes(data)
    gradient((64, 64)).save(folder / "d.png")
    line = {"file_name": "d.png", "text": "from\nmetadata"}
    (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    data = make(values, base, folder)
    assert [e.caption for e in data.examples] == ["plain café", "marked café", "wide café", "from metadata"]


def test_folders_of_other_things_inside_the_set_are_not_trained_on(control_values, base, folder):
    hints = folder / "hints"
    for path in list(folder.rglob("*.png")):
        target = hints / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    control_values["run"] = str(folder / "run")
    (folder / "run" / "previews").mkdir(parents=True)
    gradient((64, 64)).save(folder / "run" / "previews" / "x.png")
    control_values["data"]["condition"] = {"type": "custom", "name": "copy"}
    data = make(control_values, base, folder, hints=str(hints), captions="optional")
    assert len(data.examples) == 11
    assert not data.problems


def test_no_folder_and_no_pictures_are_one_sentence(values, base, tmp_path):
    with pytest.raises(DataError, match="found no folder"):
        make(values, base, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected images"):
        make(values, base, tmp_path / "empty")


@pytest.fixture(scope="module")
def small_detectors():
    path = Path(__file__).parents[1] / "unit" / "tiny_detectors.py"
    spec = importlib.util.spec_from_file_location("tiny_detectors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hints_of_a_detector_are_cached_under_its_weights(control_values, base, folder, small_detectors, tmp_path):
    for seed in range(2):
        small_detectors.save_detector("segformer", tmp_path / f"detector{seed}", seed)
    told = []

    def prepared(seed):
        condition = {"type": "segmentation", "detector": str(tmp_path / f"detector{seed}")}
        return make(control_values, base, folder, say=lambda event, **v: told.append(v["misses"]), condition=condition)

    first = prepared(0)
    assert told[-1] == 11 + 12  # pictures and captions
    colours = first.batch_of(first.held[:1]).hints[0].flatten(1).T
    assert len(colours.unique(dim=0)) > 1
    again = prepared(0)
    assert told[-1] == 0
    other = prepared(1)
    assert told[-1] == 11
    assert torch.equal(first.batch_of(first.held[:1]).hints, again.batch_of(again.held[:1]).hints)
    assert not torch.equal(first.batch_of(first.held[:1]).hints, other.batch_of(other.held[:1]).hints)


def test_a_missing_detector_is_one_sentence(control_values, base, folder, tmp_path):
    control_values["data"]["annotators"] = str(tmp_path / "annotators")
    with pytest.raises(ConditionError, match=r"depth: expected .* found none; take 490 MB .* from huggingface.co"):
        make(control_values, base, folder, condition={"type": "depth"})
