"""Bad input from the command line: exit code 2, one sentence, no traceback."""

from __future__ import annotations

import json

import pytest

from training.__main__ import main

pytestmark = pytest.mark.usefixtures("unwatched")


def run(tmp_path, values, capsys) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    assert main(["train", str(path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    assert message.count("\n") == 1
    return message


def test_unknown_key(tmp_path, values, capsys):
    assert "loop.stepz" in run(tmp_path, {**values, "loop": {"stepz": 1}}, capsys)


def test_no_such_config(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_no_base_model(tmp_path, values, capsys):
    assert "model_index.json" in run(tmp_path, {**values, "base": str(tmp_path)}, capsys)


def test_broken_base_model(tmp_path, values, capsys):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]}')
    assert "fails to load" in run(tmp_path, {**values, "base": str(folder)}, capsys)


def test_foreign_base_model(tmp_path, values, capsys):
    folder = tmp_path / "flux"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "found FluxPipeline" in run(tmp_path, {**values, "base": str(folder)}, capsys)


def test_empty_folder(tmp_path, values, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    values["data"]["folder"] = str(empty)
    assert "expected images" in run(tmp_path, values, capsys)


def test_no_folder(tmp_path, values, capsys):
    values["data"]["folder"] = str(tmp_path / "nowhere")
    assert "found no folder" in run(tmp_path, values, capsys)


@pytest.fixture
def one_picture(tmp_path, pictures_folder):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "a.png").write_bytes((pictures_folder / "00000.png").read_bytes())
    return folder


def test_missing_caption(tmp_path, values, capsys, one_picture):
    values["data"]["folder"] = str(one_picture)
    assert "a.png" in run(tmp_path, values, capsys)


def test_optional_captions(tmp_path, values, one_picture):
    values["data"] |= {"folder": str(one_picture), "captions": "optional"}
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    assert main(["train", str(path)]) == 0


def test_caption_in_another_encoding(tmp_path, values, capsys, one_picture):
    (one_picture / "a.txt").write_bytes(b"caf\xe9")
    values["data"]["folder"] = str(one_picture)
    assert "UTF-8" in run(tmp_path, values, capsys)


def test_broken_picture(tmp_path, values, capsys, one_picture):
    (one_picture / "a.txt").write_text("a star")
    (one_picture / "a.png").write_bytes((one_picture / "a.png").read_bytes()[:300])
    values["data"]["folder"] = str(one_picture)
    assert "a.png" in run(tmp_path, values, capsys)


def test_blocks_that_the_unet_lacks(tmp_path, values, capsys):
    values["tuner"]["blocks"] = [0, 9]
    assert "from 0 to 8" in run(tmp_path, values, capsys)


def test_output_that_cannot_be_written(tmp_path, values, capsys):
    (tmp_path / "file").write_text("")
    values["output"] = str(tmp_path / "file" / "tuner.safetensors")
    assert "expected a place that can be written" in run(tmp_path, values, capsys)
