"""Bad input from the command line: exit code 2, one sentence, no traceback."""

from __future__ import annotations

import json

import pytest
import small_checkpoints as small

from training.__main__ import main

pytestmark = pytest.mark.usefixtures("unwatched")


def run(tmp_path, values, capsys, command="train") -> str:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    assert main([command, str(path)]) == 2
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


@pytest.mark.parametrize("base", ["file", "folder"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": {"clip_skip": -1}}, "text.clip_skip: expected -2 or none for SDXL"),
        ({"vae": "wide"}, "vae: expected latents of 4 channels, as the base has them, found 16 in"),
        ({"vae": "nothing"}, "vae: expected a diffusers folder with a VAE's config.json, found none in"),
        ({"tuner": {"kind": "sc", "blocks": [9]}}, "tuner.blocks: expected numbers from 0 to 8 for this base"),
        ({"loop": {"block_rates": {9: 2.0}}}, "loop.block_rates: expected blocks that are trained"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_by_its_head(tmp_path, values, capsys, sdxl, base, change, words):
    """Before anything is loaded or read: there is not even a picture."""
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.json").write_text('{"latent_channels": 16}')
    (tmp_path / "nothing").mkdir()
    values = {**values, "base": str(sdxl / base) + (".safetensors" if base == "file" else ""), **change}
    values["data"] = {"folder": str(tmp_path / "no-pictures")}
    for command in ("check", "train"):
        assert words in run(tmp_path, values, capsys, command)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    """A folder with the heads of a small SDXL: `file.safetensors` with its weights, and `folder` without any."""
    root = tmp_path_factory.mktemp("sdxl")
    pipeline = small.small_pipeline("sdxl", small.write_tokenizer(root / "words"))
    small.write_checkpoint(root / "file.safetensors", small.checkpoint_weights(pipeline))
    pipeline.save_pretrained(root / "folder")
    for weights in (root / "folder").rglob("*.safetensors"):
        weights.unlink()
    return root
