"""`python -m training check`: what it prints, what it draws, and what it leaves alone."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image
from rich.console import Console

import training.check
from scedit_core.errors import DataError
from scedit_core.fitting.event_log import read_events
from scedit_core.fitting.remarks import Remarks
from training.__main__ import main
from training.check import Trial, estimate, run_check
from training.config_file import parse_config

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
    values["data"]["wording"] = {"drop_tags": 0.5}
    with pytest.raises(DataError, match=r"^data\.shards: expected tags in captions for data\.wording\.drop_tags"):
        check(values)
    del values["data"]["wording"]
    values["validation"] = {"hold_out": 2}
    assert "pictures: 3 trained on; 2 for validation and previews, kept out of training; " in check(values)[0]
    values["validation"]["folder"] = str(pictures_folder)
    assert "pictures: 5 trained on; 5 for validation and previews, kept out of training; " in check(values)[0]


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        ({"steps": 5000}, "2.00 s an update, 2 h 47 min for 5000 (previews"),
        ({"epochs": 12.5}, "2.00 s an update, 2 h 47 min for 5000, 12.5 epochs (previews"),
        ({"minutes": 170}, "2.00 s an update, about 5000 in 170 minutes"),
    ],
)
def test_estimates_are_said_in_words(values, loop, words):
    trial = Trial(2.0, 4096.4, "cuda:0", 0.25, 4000, Remarks(), 5000)
    text = "\n".join(estimate(parse_config({**values, "loop": loop}), trial))
    assert "4096 MiB of the GPU's" in text
    assert words in text
    assert "4000 pictures to encode, 0.25 s each, 17 min in all" in text


def refused(values, tmp_path, capsys, command) -> str:
    """The one sentence with which a command ends."""
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    capsys.readouterr()
    assert main([command, str(path)]) == 2, command
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def no_preview_hint(values, tmp_path):
    values["previews"] = {"hints": [str(tmp_path / "none.png")]}


def a_preview_hint_that_is_no_picture(values, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    values["previews"] = {"hints": [str(tmp_path / "text.png")]}


def an_output_below_a_file(values, tmp_path):
    (tmp_path / "file").write_text("")
    values |= {"output": str(tmp_path / "file" / "tuner.safetensors"), "run": str(tmp_path / "run")}


def an_output_that_is_a_folder(values, tmp_path):
    (tmp_path / "tuner.safetensors").mkdir()
    values["output"] = str(tmp_path / "tuner.safetensors")


def a_run_below_a_file(values, tmp_path):
    (tmp_path / "file").write_text("")
    values["run"] = str(tmp_path / "file" / "run")


def nothing_to_measure(values, tmp_path):
    (tmp_path / "held").mkdir()
    values["validation"] = {"folder": str(tmp_path / "held")}


def no_detector(values, tmp_path):
    values["data"] |= {"condition": {"type": "depth"}, "annotators": str(tmp_path)}


def no_tuner_to_begin_with(values, tmp_path):
    values["tuner"]["start_from"] = str(tmp_path / "none.safetensors")


def blocks_that_the_base_lacks(values, tmp_path):
    values["tuner"]["blocks"] = [9]


def shards_without_a_usable_picture(values, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("readme.md")
        tar.addfile(info, io.BytesIO(b""))
    values["data"] = {"shards": str(tmp_path / "a.tar"), "resolution": 64, "condition": {"type": "canny"}}


def a_cache_below_a_file(values, tmp_path):
    (tmp_path / "file").write_text("")
    values["data"]["cache"] = str(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    "spoil",
    [
        no_preview_hint,
        a_preview_hint_that_is_no_picture,
        an_output_below_a_file,
        an_output_that_is_a_folder,
        a_run_below_a_file,
        nothing_to_measure,
        no_detector,
        no_tuner_to_begin_with,
        blocks_that_the_base_lacks,
        shards_without_a_usable_picture,
        a_cache_below_a_file,
    ],
)
def test_check_refuses_what_train_refuses(control_values, tmp_path, capsys, spoil):
    control_values["tensorboard"] = False
    spoil(control_values, tmp_path)
    assert refused(control_values, tmp_path, capsys, "check") == refused(control_values, tmp_path, capsys, "train")


def test_check_refuses_a_run_of_other_settings_and_one_that_is_running(values, unwatched, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    folder = parse_config(values).run_folder
    kept = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix in (".pt", ".safetensors")}
    values["loop"]["learning_rate"] = 3e-4
    said = [refused(values, tmp_path, capsys, command) for command in ("check", "train")]
    assert said[0] == said[1]
    assert "loop.learning_rate" in said[0]
    assert {p: p.read_bytes() for p in kept} == kept
    with FileLock(folder / "lock"):
        said = [refused(values, tmp_path, capsys, command) for command in ("check", "train")]
    assert said[0] == said[1]
    assert "locked" in said[0]


def test_names_and_captions_of_any_kind_are_read_and_printed(values, tmp_path, monkeypatch):
    """Captions in Japanese to a pipe of cp1252, and a file whose name is no UTF-8, with pictures held out."""
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(10):
        name = b"%d" % i if i else b"caf\xe9"
        try:
            with open(os.fsencode(folder) + b"/" + name + b".png", "wb") as file:
                bad_pictures.picture(i, (32, 32)).save(file, "PNG")
        except OSError:
            pytest.skip("NAMES NOT TESTED: this file system takes UTF-8 alone")
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b".txt")).write_text("夜の赤い星", "utf-8")
    values["data"]["folder"] = str(folder)
    values |= {"validation": {"hold_out": 1, "images": 1, "timesteps": 1}, "previews": {"every": 0}}
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    for command in ("check", "train"):
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), "cp1252"))
        assert main([command, str(tmp_path / "run.yaml")]) == 0
    run = parse_config(values).run_folder
    assert "caf\\udce9.png" in (run / "check.txt").read_text("utf-8")
    assert (run / "report.html").is_file()
    (told,) = (e for e in read_events(run / "events.jsonl") if e["event"] == "remarks")
    assert told["remarks"][0]["count"] == 10


def test_what_was_found_whole_is_not_decoded_again(values, tmp_path, pictures_folder, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(pictures_folder, folder)
    values["data"]["folder"] = str(folder)
    decoded = []
    read = training.check.read_picture
    monkeypatch.setattr(
        training.check, "read_picture", lambda path, *rest: decoded.append(Path(path).name) or read(path, *rest)
    )
    config, console = parse_config(values), Console(quiet=True)
    training.check.read_folders(config, console)
    assert len(decoded) == len(set(decoded)) == 5
    broken = sorted(folder.glob("*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:-200])
    found = training.check.read_folders(config, console)
    assert decoded[5:] == [broken.name]
    assert broken.name in found.survey.problems[0]
    training.check.read_folders(config, console)
    assert decoded[6:] == [broken.name]  # what was not whole is looked at again
