"""`python -m training check`: what it prints, what it draws, and what it leaves alone."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from scedit_core.fitting.remarks import Remarks
from training.config_file import parse_config
from training.data.check import Trial, estimate, run_check
from training.errors import DataError

_spec = importlib.util.spec_from_file_location("bad_pictures", Path(__file__).with_name("bad_pictures.py"))
bad_pictures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bad_pictures)


def check(values):
    """What was printed, and the run folder."""
    out = io.StringIO()
    config = parse_config(values)
    try:
        assert run_check(config, Console(file=out, width=100)) == 0
    finally:
        check.printed = out.getvalue()
    return out.getvalue(), config.run_folder


def test_a_good_set(control_values):
    printed, folder = check(control_values)
    for line in (
        "pictures: 5 trained on; 5 for validation and previews, of the same; 0 files not used",
        "sizes: 64x64: 5",
        "captions: 5 of 5 pictures",
        "contact sheet: ",
        "memory: ",
        "s an update",
    ):
        assert line in printed
    with Image.open(folder / "check.jpg") as sheet:
        assert sheet.width > 1000
    assert not (folder / "checkpoints").exists()
    assert not Path(control_values["output"]).exists()
    assert not (folder / "events.jsonl").exists()


def test_a_set_too_small_to_hold_out_of_is_not_said_to_be(values):
    values["validation"] = {"hold_out": 2}
    printed, _ = check(values)
    assert "pictures: 5 trained on; 5 for validation and previews, of the same; 0 files not used" in printed
    assert "validation.hold_out: expected at least 20 pictures" in printed


def test_two_hundred_bad_files_are_named(control_values, tmp_path):
    bad, remarked = bad_pictures.write_bad_set(tmp_path / "set", tmp_path / "hints")
    control_values["data"] |= {"folder": str(tmp_path / "set"), "hints": str(tmp_path / "hints")}
    control_values["data"]["condition"] = {"type": "custom", "name": "noise"}
    printed, folder = check(control_values)
    assert f"{len(bad)} files not used" in printed
    assert "check.txt" in printed
    written = (folder / "check.txt").read_text("utf-8")
    assert not [path for path in bad | remarked if str(path) not in written]


def test_missing_captions_are_all_named_before_it_stops(values, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(3):
        bad_pictures.picture(i).save(folder / f"{i}.png")
    values["data"]["folder"] = str(folder)
    with pytest.raises(DataError, match="expected a caption"):
        check(values)
    assert "pictures without a caption: 3 (0.png, 1.png, 2.png); " in check.printed


def test_shards(values, pictures_folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(6):
            picture = bad_pictures.encoded(bad_pictures.picture(i, (96, 64)), "JPEG")
            for name, data in ((f"{i}.jpg", picture if i else picture[:800]), (f"{i}.txt", b"noise of some kind")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    values["data"] = {"shards": str(tmp_path / "a.tar"), "resolution": 64}
    printed, folder = check(values)
    assert "pictures: 5 trained on; 5 for validation and previews, of the same; " in printed
    assert "captions: 5 of 5 pictures, 1 different" in printed
    assert "a.tar/0 (picture)" in printed
    assert (folder / "check.jpg").is_file()
    values["validation"] = {"hold_out": 2}
    assert "pictures: 3 trained on; 2 for validation and previews, kept out of training; " in check(values)[0]
    values["validation"]["folder"] = str(pictures_folder)
    assert "pictures: 5 trained on; 5 for validation and previews, kept out of training; " in check(values)[0]


def test_estimates_are_said_in_words(values):
    lines = estimate(
        parse_config({**values, "loop": {"steps": 5000}}),
        Trial(2.0, 4096.4, "cuda:0", 0.25, 4000, Remarks()),
    )
    text = "\n".join(lines)
    assert "4096 MiB of the GPU's" in text
    assert "2.00 s an update, 2 h 47 min for 5000" in text
    assert "4000 pictures to encode, 0.25 s each, 17 min in all" in text
