"""The caches: what is encoded again and what is not, damage, and several processes at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_core.errors import TrainingError
from scedit_core.pictures.reading import to_tensor
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.cache import Cache, DamagedEntry, tensors_size
from training.data.file_index import FileIndex
from training.data.opening import open_data


@pytest.fixture(scope="module")
def base(base_folder):
    return load_base(base_folder)


@pytest.fixture
def own_set(control_values, pictures_folder, tmp_path):
    """A configuration with a copy of the pictures that a test may change."""
    folder = tmp_path / "set"
    shutil.copytree(pictures_folder, folder)
    control_values["data"] |= {"folder": str(folder), "flip": True}
    return control_values, folder


def prepare(base, values):
    """The set, and (hits, misses) of filling its cache."""
    told = []
    data = open_data(base, parse_config(values), lambda event, **v: told.append(v))
    return data, (told[-1]["hits"], told[-1]["misses"])


def counts(base, values):
    return prepare(base, values)[1]


def encoded(data):
    """Everything that training reads of a set."""
    return {
        e.name: (*data._encoder.moments(e, False), *data._encoder.moments(e, True), data._encoder.hint(e))
        for e in data.examples
    }


def equal(one, two):
    return all(torch.equal(a, b) for name in one for a, b in zip(one[name], two[name], strict=True))


def test_a_second_run_encodes_nothing_and_reads_the_same(own_set, base, monkeypatch):
    values, _ = own_set
    first, found = prepare(base, values)
    assert found == (0, 11)  # 5 pictures, 5 captions and the empty one
    for name in ("encode_moments", "encode_captions"):
        monkeypatch.setattr(type(base), name, lambda *_: pytest.fail("encoded again"))
    second, found = prepare(base, values)
    assert found == (11, 0)
    assert equal(encoded(first), encoded(second))


def test_touching_changes_nothing_and_editing_does_even_at_the_same_size(own_set, base):
    values, folder = own_set
    prepare(base, values)
    for path in folder.iterdir():
        os.utime(path)
    assert counts(base, values) == (11, 0)
    Image.new("RGB", (64, 64), (0, 0, 0)).save(folder / "00000.png", "BMP")
    assert counts(base, values) == (10, 1)
    size = (folder / "00000.png").stat().st_size
    Image.new("RGB", (64, 64), (9, 9, 9)).save(folder / "00000.png", "BMP")
    assert (folder / "00000.png").stat().st_size == size
    data, found = prepare(base, values)
    assert found == (10, 1)
    black = data.batch_of([data.examples[0]])
    assert torch.allclose(black.latents, base.encode_images(torch.full((1, 3, 64, 64), 9 / 127.5 - 1)), atol=1e-5)


def test_an_edit_that_hides_behind_the_old_time_is_found(own_set, base):
    values, folder = own_set
    path = folder / "00000.png"
    Image.new("RGB", (64, 64), (0, 0, 0)).save(path, "BMP")
    prepare(base, values)
    before = path.stat()
    Image.new("RGB", (64, 64), (200, 9, 9)).save(path, "BMP")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert counts(base, values) == (10, 1)


@pytest.mark.parametrize(
    ("change", "misses"),
    [
        ({"data": {"resolution": 128}}, 5),  # another bucket
        ({"data": {"condition": {"type": "canny", "low": 50}}}, 5),  # other hints, the same latents
        ({"data": {"caption": "a photograph of"}}, 5),  # other captions
        ({"data": {"flip": False}}, 0),
        ({"data": {"repeats": 3}}, 0),
        ({"loop": {"seed": 5}}, 0),
    ],
)
def test_what_a_changed_configuration_encodes_again(own_set, base, change, misses):
    values, _ = own_set
    prepare(base, values)
    changed = dict(values)
    for section, keys in change.items():
        changed[section] = {**values[section], **keys}
    assert counts(base, changed)[1] == misses
    assert counts(base, values) == (11, 0)  # the old entries are still there


def test_an_edited_caption_is_encoded_again(own_set, base):
    values, folder = own_set
    prepare(base, values)
    (folder / "00001.txt").write_text("something else entirely")
    assert counts(base, values)[1] == 1


def test_another_vae_and_another_text_encoder(own_set, base_folder, tmp_path):
    values, _ = own_set
    prepare(load_base(base_folder), values)
    other = load_base(base_folder)
    with torch.no_grad():
        other.vae.encoder.layers[0].weight[0, 0, 0, 0] += 0.1
    assert counts(other, values) == (6, 5)
    other = load_base(base_folder)
    with torch.no_grad():
        next(other.pipeline.text_encoder.parameters())[0, 0] += 0.1
    assert counts(other, values) == (5, 6)


def entries(values):
    folder = Path(values["output"]).with_suffix(".run") / "cache"
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "index.jsonl")


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed", "removed"])
def test_damaged_entries_are_made_again(own_set, base, damage):
    values, _ = own_set
    data, _ = prepare(base, values)
    whole = encoded(data)
    batches = [data.batch(step, 3) for step in range(4)]
    files = entries(values)
    assert len(files) == 10 + 5 + 6  # latents both ways, hints, captions
    for path in files:
        content = bytearray(path.read_bytes())
        if damage == "removed":
            path.unlink()
            continue
        if damage == "changed":
            content[len(content) * 3 // 4] ^= 0xFF
        path.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "changed": content}[damage])
    fresh = open_data(base, parse_config(values)) if damage != "changed" else data
    for step, expected in enumerate(batches):
        found = fresh.batch(step, 3)
        assert torch.equal(found.latents, expected.latents)
        assert torch.equal(found.hints, expected.hints)
        assert torch.equal(found.text.states, expected.text.states)
    for example in fresh.examples:
        fresh.batch_of([example])
        fresh._encoder.mend(example)
    assert equal(encoded(fresh), whole)


def test_damage_while_training_is_mended_on_the_way(own_set, base):
    values, _ = own_set
    data, _ = prepare(base, values)
    expected = [data.batch(step, 3) for step in range(3)]
    for path in entries(values):
        path.write_bytes(b"")
    for step in range(3):
        assert torch.equal(data.batch(step, 3).latents, expected[step].latents)


_FILL = """
import sys, json
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.opening import open_data
values, base, rank, count = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
said = []
open_data(load_base(base), parse_config(values), lambda event, **v: said.append(v), (rank, count))
print(json.dumps(said[-1]))
"""


def test_two_processes_fill_one_cache(own_set, base, base_folder, tmp_path):
    values, _ = own_set
    alone = {**values, "run": str(tmp_path / "alone")}
    one, _ = prepare(base, alone)
    command = [sys.executable, "-c", _FILL, json.dumps(values), str(base_folder), "1", "2"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    both = open_data(base, parse_config(values), process=(0, 2))
    told = json.loads(other.communicate(timeout=300)[0].splitlines()[-1])
    assert told["done"] == told["total"] == 11
    assert counts(base, values) == (11, 0)
    assert equal(encoded(one), encoded(both))
    assert not [p for p in entries(values) if p.suffix == ".part"]


def test_index_takes_over_what_others_found_and_survives_torn_lines(tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(picture)
    os.utime(picture, ns=(0, 0))
    one, two = FileIndex(tmp_path / "index.jsonl"), FileIndex(tmp_path / "index.jsonl")
    time.sleep(2.1)  # a file that was changed just now is not trusted
    known = one.look_up(picture)
    assert known.size == (30, 20)
    with open(tmp_path / "index.jsonl", "ab") as file:
        file.write(b'["torn line of a killed process", [1, 2')
    two.refresh()
    assert two._lines[str(picture)][1] == known
    assert FileIndex(tmp_path / "index.jsonl").look_up(picture) == known


def test_tensors_round_trip_and_their_size_is_known(tmp_path):
    cache = Cache(tmp_path)
    tensors = {"mean": torch.randn(4, 8, 8), "std": torch.rand(4, 8, 8).bfloat16()}
    size = cache.write_tensors("latents", "ab12", tensors)
    read = cache.read_tensors("latents", "ab12")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert size == cache.tensors_path("latents", "ab12").stat().st_size
    one = {"mean": torch.randn(4, 8, 8)}
    assert cache.write_tensors("latents", "cd", one) == tensors_size({"mean": (4, 8, 8)})
    with pytest.raises(DamagedEntry):
        cache.read_tensors("latents", "none")


def test_a_cache_that_cannot_be_written_is_one_sentence(own_set, base, tmp_path):
    values, _ = own_set
    (tmp_path / "file").write_text("")
    values["data"]["cache"] = str(tmp_path / "file" / "cache")
    with pytest.raises(TrainingError, match="expected room for the cache"):
        prepare(base, values)


def test_hints_are_kept_as_they_are_where_a_png_saves_little_and_old_ones_are_read(tmp_path):
    cache, chance = Cache(tmp_path), np.random.default_rng(0)
    photograph = Image.fromarray(chance.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    lines = Image.fromarray((chance.random((64, 96)) < 0.2).astype(np.uint8) * 255).convert("RGB")
    flat = Image.new("RGB", (96, 64), (9, 200, 40))
    for key, image, planes in (("photograph", photograph, 3), ("lines", lines, 1), ("flat", flat, None)):
        cache.write_pixels("hints", key, image)
        pixels, png = cache.pixels_paths("hints", key)
        assert (pixels.is_file(), png.is_file()) == (planes is not None, planes is None)
        if planes:
            assert pixels.stat().st_size < planes * 64 * 96 + 300
        found = cache.read_pixels("hints", key)
        assert found.shape == (3, 64, 96)
        assert torch.equal(found.float() / 255, to_tensor(image))
        cache.write_picture("hints", f"{key}-old", image)
        assert torch.equal(cache.read_pixels("hints", f"{key}-old"), found)
    path = cache.pixels_paths("hints", "photograph")[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedEntry):
        cache.read_pixels("hints", "photograph")
    with pytest.raises(DamagedEntry):
        cache.read_pixels("hints", "nothing")
