"""Two hundred bad files: each is named, and the rest is trained on, or nothing is, as the configuration says."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_core import SCTuner
from scedit_core.errors import DataError
from scedit_core.fitting.validation import Validation
from scedit_core.pictures.reading import measure, read_picture
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.opening import open_data
from training.data.survey import survey

_spec = importlib.util.spec_from_file_location("bad_pictures", Path(__file__).with_name("bad_pictures.py"))
bad_pictures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bad_pictures)


@pytest.fixture(scope="module")
def base(base_folder):
    return load_base(base_folder)


@pytest.fixture(scope="module")
def bad_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    bad, remarked = bad_pictures.write_bad_set(root / "set", root / "hints")
    return root, bad, remarked


@pytest.fixture
def bad_values(control_values, bad_set):
    root, _, _ = bad_set
    control_values["data"] |= {"folder": str(root / "set"), "hints": str(root / "hints")}
    control_values["data"]["condition"] = {"type": "custom", "name": "noise"}
    return control_values


def named(sentences: list[str], path: Path) -> int:
    return sum(str(path) in sentence for sentence in sentences)


def test_each_of_200_bad_files_is_named_and_training_goes_on(bad_values, bad_set, base):
    _, bad, remarked = bad_set
    assert len(bad) >= 200
    data = open_data(base, parse_config(bad_values))
    missing = [path for path in bad if not named(data.problems, path)]
    assert not missing
    assert len(data.problems) == len(bad)
    assert all(sentence.count("\n") == 0 and "expected" in sentence and "; " in sentence for sentence in data.problems)
    assert {e.name.rsplit(" ", 1)[0] for e in data.examples} == {"good", "twice", *bad_pictures.ODD}
    assert len(data.examples) == 4 + 10 + 12
    batch = data.batch(0, 8)
    assert torch.isfinite(batch.latents).all()
    found = survey(parse_config(bad_values))
    sentences = [sentence for remark in found.remarks for sentence in remark.said]
    assert all(named(sentences, path) for path in remarked)
    told = {remark.what: remark.values() for remark in data.remarks}["files left out"]
    assert told["count"] == len(bad)
    assert len(told["names"]) == 3
    assert told["text"].startswith(f"files left out: {len(bad)} ({told['names'][0]}, ")
    assert data.problems[0] in told["text"]


def test_stop_ends_the_run_with_one_sentence(bad_values, base):
    bad_values["data"]["bad_files"] = "stop"
    with pytest.raises(DataError, match=r"expected no bad files, found \d+, of which the first is .*data.bad_files"):
        open_data(base, parse_config(bad_values))


def test_stop_also_counts_what_only_decoding_finds(values, base, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(bad_pictures.encoded(bad_pictures.picture(i), "JPEG")[: None if i else 900])
    values["data"] |= {"folder": str(folder), "captions": "none", "bad_files": "stop"}
    with pytest.raises(DataError, match=r"0\.jpg"):
        open_data(base, parse_config(values))
    values["data"]["bad_files"] = "skip"
    values["validation"], values["previews"] = {"images": 1}, {"count": 1}
    data = open_data(base, parse_config(values))
    assert [e.name for e in data.examples] == ["1", "2"]
    assert [e.name for e in data.held] == ["1"]


@pytest.mark.parametrize(("count", "left"), [(11, True), (10, False)])
def test_a_damaged_picture_that_was_to_be_held_out_is_replaced(values, base, tmp_path, count, left):
    """One more is held out for it; where the set is too small without it, the first of the set is measured."""
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:02d}.jpg").write_bytes(bad_pictures.encoded(bad_pictures.picture(i), "JPEG"))
    values["data"] |= {"folder": str(folder), "captions": "none"}
    values["validation"], values["previews"] = {"hold_out": 1, "images": 1, "timesteps": 1}, {"count": 1}
    (before,) = survey(parse_config(values)).held
    before.path.write_bytes(before.path.read_bytes()[:900])
    data = open_data(base, parse_config(values))
    (held,) = data.held
    assert held.name != before.name
    assert data.unseen == left
    assert (held not in data.examples) == left
    assert {e.name for e in (*data.examples, held)} == {f"{i:02d}" for i in range(count)} - {before.name}
    measured = Validation(parse_config(values), base, data).measure(SCTuner(base.layout))
    assert measured["loss_with"] > 0
    assert measured["unseen"] == left
    data.held.clear()
    with pytest.raises(DataError, match="expected pictures to measure, found none"):
        Validation(parse_config(values), base, data)


def test_nothing_but_bad_files_names_the_first(values, base, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    values["data"] |= {"folder": str(folder), "captions": "none"}
    with pytest.raises(DataError, match=r"found none, the first is .*a\.png"):
        open_data(base, parse_config(values))


def test_required_captions(values, base, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(3):
        bad_pictures.picture(i).save(folder / f"{i}.png")
    (folder / "1.caption").write_text("a cat")
    values["data"]["folder"] = str(folder)
    with pytest.raises(DataError, match=r"found 2 without \(0\.png, 2\.png\)"):
        open_data(base, parse_config(values))
    values["data"] |= {"captions": "optional", "caption": "a photograph,"}
    data = open_data(base, parse_config(values))
    assert [e.caption for e in data.examples] == ["a photograph,", "a photograph, a cat", "a photograph,"]


def test_captions_that_belong_to_nothing_are_remarked(values, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    bad_pictures.picture().save(folder / "a.png")
    (folder / "a.txt").write_text("a cat")
    (folder / "b.txt").write_text("nobody's")
    (folder / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}\nno json\n{"text": "y"}\n')
    values["data"]["folder"] = str(folder)
    found = survey(parse_config(values))
    assert [remark.names for remark in found.remarks] == [["b.txt"]]
    for line in ("line 1: expected a picture gone.png", "line 2: expected {", "line 3: expected {"):
        assert any(line in problem for problem in found.problems)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_read_the_way_up_that_they_are_looked_at(orientation, tmp_path):
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30] = 255  # white in the corner above left
    ways = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the turn of Pillow that undoes what the EXIF asks for
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(ways[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    assert measure(path, path).size == (60, 40)
    assert np.array_equal(np.array(read_picture(path, path)), upright)


def test_values_of_odd_pictures():
    ramp = np.linspace(0, 65535, 256 * 4, dtype=np.uint16).reshape(4, 256)
    grey = read_picture(io.BytesIO(bad_pictures.encoded(Image.fromarray(ramp), "PNG")), "ramp")
    assert np.abs(np.array(grey)[..., 0].astype(float) - ramp / 257).max() <= 1
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.array(read_picture(io.BytesIO(bad_pictures.encoded(clear, "PNG")), "clear")).min() == 255
    assert np.array(read_picture(io.BytesIO(bad_pictures.encoded(clear, "PNG")), "clear", "black")).max() == 0
    palette = bad_pictures.picture().quantize(8)
    assert read_picture(io.BytesIO(bad_pictures.encoded(palette, "GIF")), "palette").mode == "RGB"
    red = Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK")
    pixel = np.array(read_picture(io.BytesIO(bad_pictures.encoded(red, "JPEG")), "red"))[4, 4]
    assert pixel[0] > 240
    assert max(pixel[1:]) < 15


@pytest.fixture
def clashing(control_values, tmp_path):
    """Three pictures, two to measure of which one is named like one of them, and a white partner for each name."""
    for part, names in (("set", "012"), ("held", "0v"), ("partners", "012v")):
        (tmp_path / part).mkdir()
        for name in names:
            white = Image.new("RGB", (96, 96), "white")
            (white if part == "partners" else bad_pictures.picture(ord(name))).save(tmp_path / part / f"{name}.png")
    bad_pictures.picture(100).save(tmp_path / "held" / "0.png")
    control_values["data"] |= {"folder": str(tmp_path / "set"), "captions": "none"}
    control_values["validation"] = {"folder": str(tmp_path / "held")}
    return control_values


def test_a_mask_belongs_to_the_training_picture_of_its_name(clashing, tmp_path):
    clashing["data"]["masks"] = str(tmp_path / "partners")
    found = survey(parse_config(clashing))
    assert {e.name: e.mask and e.mask.path.name for e in found.held} == {"0": None, "v": "v.png"}
    assert [e.mask.path.name for e in found.own] == ["0.png", "1.png", "2.png"]
    assert not found.problems
    (remark,) = (r for r in found.remarks if "mask" in r.what)
    assert next(iter(remark.said)).startswith(f"{tmp_path / 'held' / '0.png'}: has no mask")


def test_a_hint_belongs_to_the_training_picture_of_its_name(clashing, base, tmp_path):
    clashing["data"] |= {"condition": {"type": "custom", "name": "white"}, "hints": str(tmp_path / "partners")}
    found = survey(parse_config(clashing))
    assert [e.name for e in found.held] == ["v"]
    assert [e.hint.path.name for e in found.own] == ["0.png", "1.png", "2.png"]
    (problem,) = found.problems
    assert problem.startswith(f"{tmp_path / 'held' / '0.png'}: expected a name that no picture of data.folder has")
    (tmp_path / "held" / "v.png").unlink()
    with pytest.raises(DataError, match=r"found none, the first is .*0\.png: expected a name"):
        open_data(base, parse_config(clashing))


def test_a_training_folder_that_is_measured_as_well_keeps_its_hints(clashing, tmp_path):
    clashing["data"] |= {"condition": {"type": "custom", "name": "white"}, "hints": str(tmp_path / "partners")}
    clashing["validation"]["folder"] = clashing["data"]["folder"]
    (tmp_path / "partners" / "v.png").unlink()
    found = survey(parse_config(clashing))
    assert [e.hint.path.name for e in found.held] == ["0.png", "1.png", "2.png"]
    assert not found.unseen
    assert not found.problems
