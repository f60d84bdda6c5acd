"""Tar shards: split by process and worker, the same batch for the same step wherever one begins, bad samples named."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from scedit_core.errors import DataError
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.opening import open_data
from training.data.shard_reading import ShardRows, expand_shards, row_batches, samples_of

_spec = importlib.util.spec_from_file_location("bad_pictures", Path(__file__).with_name("bad_pictures.py"))
bad_pictures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bad_pictures)


@pytest.fixture(scope="module")
def base(base_folder):
    return load_base(base_folder)


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def colour(number: int, size=(64, 64)) -> bytes:
    """A picture whose colour tells its number."""
    return bad_pictures.encoded(Image.new("RGB", size, (number, 255 - number, 7)), "PNG")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four shards of six pictures, a third of them wide; 24 in all."""
    folder = tmp_path_factory.mktemp("shards")
    for s in range(4):
        members = {}
        for i in range(6):
            number = 6 * s + i
            members[f"{number:03d}.png"] = colour(number, (128, 64) if i % 3 == 0 else (64, 64))
            if i % 2:
                members[f"{number:03d}.txt"] = f"number {number}".encode()
            else:
                members[f"{number:03d}.json"] = json.dumps({"text": f"number {number}"}).encode()
        write_shard(folder / f"set-{s:03d}.tar", members)
    return f"{folder}/set-{{000..003}}.tar"


@pytest.fixture
def shard_values(values, shards):
    values["data"] = {"shards": shards, "resolution": 128}
    values["validation"] = {"images": 2}
    values["previews"] = {"count": 2}
    return values


def numbers(batches, count):
    return [[int(row.picture[0, 0, 0]) for row in batch.rows] for batch in itertools.islice(batches, count)]


def rows(shards, values, part=(0, 1), count=2, first=0):
    config = parse_config(values)
    return ShardRows(expand_shards(shards), config.data, config.loop.seed, part, count, first)


def test_braces_and_missing_shards(shards, tmp_path):
    found = expand_shards([shards])
    assert [Path(path).name for path in found] == [f"set-{i:03d}.tar" for i in range(4)]
    with pytest.raises(DataError, match=r"2 of 6 missing \(.*set-004.tar"):
        expand_shards(shards.replace("003", "005"))


def test_every_picture_is_seen_once_an_epoch_with_its_caption(shards, shard_values):
    seen = []
    for batch in itertools.islice(row_batches(rows(shards, shard_values, count=1), 0), 24):
        (row,) = batch.rows
        assert row.caption == f"number {int(row.picture[0, 0, 0])}"
        seen.append(row.caption)
    assert len(set(seen)) == 24
    assert seen != sorted(seen)


def test_processes_and_workers_share_an_epoch(shards, shard_values):
    parts = [numbers(row_batches(rows(shards, shard_values, (rank, 2), 1), 0), 12) for rank in range(2)]
    assert sorted(n for part in parts for (n,) in part) == list(range(24))
    workers = numbers(row_batches(rows(shards, shard_values, (0, 1), 1), 2), 24)
    assert sorted(n for (n,) in workers) == list(range(24))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_sees_what_it_would_have_seen(shards, shard_values, workers):
    shard_values["data"]["resolution"] = 192
    shard_values["loop"]["seed"] = 3
    whole = numbers(row_batches(rows(shards, shard_values), workers), 18)
    for first in (1, 5, 16):
        again = numbers(row_batches(rows(shards, shard_values, first=first), workers), 18 - first)
        assert again == whole[first:]


def test_batches_are_of_one_bucket(shards, shard_values):
    shard_values["data"]["resolution"] = 192
    sizes = Counter()
    for batch in itertools.islice(row_batches(rows(shards, shard_values), 0), 24):
        shapes = {tuple(row.picture.shape) for row in batch.rows}
        assert len(shapes) == 1
        sizes[shapes.pop()] += 2
    assert sizes[(3, 128, 256)] in range(14, 19)  # 16 of 48
    assert sizes[(3, 192, 192)] + sizes[(3, 128, 256)] == 48


def test_a_set_of_shards_is_a_training_set(shard_values, base):
    shard_values["tuner"] = {"kind": "csc"}
    shard_values["data"] |= {"condition": {"type": "canny"}, "flip": True}
    data = open_data(base, parse_config(shard_values))
    again = open_data(base, parse_config(shard_values))
    assert len(data.held) == 2
    assert data.batch_of(data.held[:1]).hints.shape[1] == 3
    batches = [data.batch(step, 2) for step in range(3)]
    for step in (2, 0, 1):  # any other step begins anew
        batch = again.batch(step, 2)
        for name in ("latents", "hints", "weights"):
            assert torch.equal(getattr(batch, name), getattr(batches[step], name))
        assert torch.equal(batch.text.states, batches[step].text.states)
    assert batches[0].latents.shape == (2, 4, 16, 16)
    assert batches[0].weights.tolist() == [1, 1]


def test_held_out_samples_are_not_trained_on(shard_values, base):
    shard_values["validation"]["hold_out"] = 3
    shard_values["objective"] = {"caption_dropout": 0}
    data = open_data(base, parse_config(shard_values))
    held = {example.caption for example in data.held}
    assert len(held) == 3
    seen = base.encode_captions(sorted(held)).states
    for step in range(11):
        for states in data.batch(step, 2).text.states:
            assert not any(torch.allclose(states, one, atol=1e-5) for one in seen)


def test_hints_and_masks_inside_shards(values, base, tmp_path):
    members = {}
    for i in range(4):
        members |= {f"{i}.png": colour(i), f"{i}.hint.png": colour(100 + i), f"{i}.txt": b"x"}
        if i:
            mask = Image.new("L", (64, 64), 255)
            mask.paste(0, (0, 0, 64, 0 if i == 1 else 32))
            members[f"{i}.mask.png"] = bad_pictures.encoded(mask, "PNG")
    write_shard(tmp_path / "a.tar", members)
    values["tuner"] = {"kind": "csc"}
    values["data"] = {"shards": str(tmp_path / "a.tar"), "resolution": 64, "condition": {"type": "canny"}}
    data = open_data(base, parse_config(values))
    batch = data.batch(0, 4)
    assert sorted((batch.hints[:, 0, 0, 0] * 255).round().int().tolist()) == [100, 101, 102, 103]
    ordered = batch.hints[:, 0, 0, 0].argsort()
    assert batch.masks[ordered].mean((1, 2, 3)).tolist() == [1, 1, 0.5, 0.5]
    assert data.batch_of(data.held[:4]).masks.mean((1, 2, 3)).tolist() == [1, 1, 0.5, 0.5]


def test_ready_hints_of_completion_and_transparent_masks_in_shards(values, base, tmp_path):
    white = bad_pictures.encoded(Image.new("RGB", (64, 64), "white"), "PNG")
    clear = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (0, 0, 64, 32))
    clear = bad_pictures.encoded(clear, "PNG")
    members = {}
    for i in range(4):
        members |= {f"{i}.png": colour(i), f"{i}.hint.png": white, f"{i}.mask.png": clear, f"{i}.txt": b"x"}
    write_shard(tmp_path / "a.tar", members)
    values["tuner"] = {"kind": "csc"}
    values["data"] = {"shards": str(tmp_path / "a.tar"), "resolution": 64, "condition": {"type": "completion"}}
    data = open_data(base, parse_config(values))
    for batch in (data.batch(0, 4), data.batch_of(data.held[:4])):
        assert batch.hints.min() == 1
        assert batch.masks[:, :, :4].min() == 1
        assert batch.masks[:, :, 4:].max() == 0


@pytest.mark.parametrize("part", ["jpg", "hint.png", "mask.png", "shape", "black mask"])
def test_a_damaged_sample_that_was_to_be_held_out_is_replaced(values, base, tmp_path, part):
    members = {}
    for i in range(4):
        hint = bad_pictures.encoded(bad_pictures.picture(9 + i), "PNG")
        members |= {f"{i}.jpg": bad_pictures.encoded(bad_pictures.picture(i), "JPEG"), f"{i}.txt": b"x"}
        members |= {f"{i}.hint.png": hint, f"{i}.mask.png": hint}
    if part == "shape":
        members["0.hint.png"] = bad_pictures.encoded(bad_pictures.picture(9, (96, 48)), "PNG")
    elif part == "black mask":
        members["0.mask.png"] = bad_pictures.encoded(Image.new("L", (64, 64)), "PNG")
    else:
        members[f"0.{part}"] = members[f"0.{part}"][:900]
    write_shard(tmp_path / "a.tar", members)
    values["tuner"] = {"kind": "csc"}
    values["data"] = {"shards": str(tmp_path / "a.tar"), "resolution": 64, "condition": {"type": "canny"}}
    values["validation"] = {"hold_out": 1}
    data = open_data(base, parse_config(values))
    assert [Path(example.name).name for example in data.held] == ["1"]
    assert data.unseen
    assert len(data.problems) == 1


@pytest.fixture
def bad_shards(tmp_path):
    members = {}
    for i in range(8):
        members |= {f"{i}.jpg": bad_pictures.encoded(bad_pictures.picture(i), "JPEG"), f"{i}.txt": b"x"}
    members["1.jpg"] = members["1.jpg"][:900]
    members["2.jpg"] = b""
    members["3.txt"] = "café".encode("latin-1")
    del members["4.txt"]
    write_shard(tmp_path / "a.tar", members)
    write_shard(tmp_path / "b.tar", {"x.jpg": members["0.jpg"], "x.txt": b"x"})
    data = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "c.tar").write_bytes(data[:700])
    return tmp_path


def test_bad_samples_are_named_and_the_rest_is_trained_on(values, base, bad_shards):
    values["data"] = {"shards": f"{bad_shards}/{{a,b,c}}.tar", "resolution": 64}
    data = open_data(base, parse_config(values))
    weights = torch.cat([data.batch(step, 2).weights for step in range(8)])
    assert set(weights.tolist()) == {0, 1}  # the picture that only decoding shows to be damaged counts for nothing
    for name in ("a.tar/1.jpg", "a.tar/2.jpg", "a.tar/3.txt", "a.tar/4", "c.tar"):
        assert any(name in problem for problem in data.problems), name
    (left_out,) = (remark for remark in data.remarks if remark.what == "files left out")
    assert len(left_out.said) >= 4
    assert "a.tar/1.jpg" in left_out.names
    values["data"]["bad_files"] = "stop"
    with pytest.raises(DataError, match="bad_files"):
        open_data(base, parse_config(values))
    values |= {"validation": {"images": 1}, "previews": {"count": 1}}  # the first sample is good
    data = open_data(base, parse_config(values))
    with pytest.raises(DataError, match="bad_files"):
        list(map(data.batch, range(8), [2] * 8))


@pytest.mark.parametrize("condition", [{"type": "custom", "name": "mine"}, {"type": "canny"}, {"type": "completion"}])
@pytest.mark.parametrize("torn", ["png", "hint.png", "mask.png"])
def test_what_only_decoding_shows_to_be_torn_counts_for_nothing_under_any_condition(
    values, base, tmp_path, torn, condition
):
    members = {}
    for i in range(4):
        for number, part in enumerate(("png", "hint.png", "mask.png")):
            members[f"{i}.{part}"] = bad_pictures.encoded(bad_pictures.picture(4 * number + i, (64, 64)), "PNG")
    members[f"3.{torn}"] = members[f"3.{torn}"][:700]
    write_shard(tmp_path / "a.tar", members)
    values["tuner"] = {"kind": "csc"}
    values["data"] = {"shards": str(tmp_path / "a.tar"), "resolution": 64, "condition": condition, "captions": "none"}
    values["objective"] = {"condition_dropout": 0}
    values |= {"validation": {"images": 1}, "previews": {"count": 1}}  # the first samples are good
    batch = open_data(base, parse_config(values)).batch(0, 4)
    assert sorted(batch.weights.tolist()) == [0, 1, 1, 1]
    assert [bool(hint.any()) for hint in batch.hints] == batch.weights.bool().tolist()


def test_a_torn_caption_is_told_where_captions_are_optional_and_not_read_where_they_are_none(values, tmp_path):
    torn = {"a.png": colour(1), "a.json": b'{"text": "one', "b.png": colour(2), "b.json": b"[" * 100_000}
    write_shard(tmp_path / "set.tar", torn | {"c.png": colour(3), "c.txt": b"\xff\xfe\x00"})
    for captions, told in (("optional", ["a.json", "b.json", "c.txt"]), ("none", [])):
        values["data"] = {"shards": str(tmp_path / "set.tar"), "resolution": 64, "captions": captions}
        problems = []
        found = list(samples_of([str(tmp_path / "set.tar")], parse_config(values).data, problems))
        assert [problem.partition(":")[0].rpartition("/")[2] for problem in problems] == told
        assert [sample.texts for sample in found] == [()] * (3 - len(told))


def test_shards_without_pictures_and_too_few_shards(values, base, tmp_path):
    write_shard(tmp_path / "empty.tar", {"readme.txt": b"nothing"})
    values["data"] = {"shards": str(tmp_path / "empty.tar"), "resolution": 64}
    with pytest.raises(DataError, match="found none"):
        open_data(base, parse_config(values))
    with pytest.raises(DataError, match="at least one shard for each of 2 processes"):
        open_data(base, parse_config(values), process=(0, 2))
    problems = []
    assert list(samples_of([str(tmp_path / "empty.tar")], parse_config(values).data, problems)) == []
    values["data"]["masks"] = str(tmp_path)
    with pytest.raises(DataError, match=r"into the shards as \.mask\.png"):
        open_data(base, parse_config(values))
