"""Grey pictures of 8 bits and fewer by way of Load Image: v0.28.0 decodes them through 16 bits as v*256/65535."""

from __future__ import annotations

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image
from small_model import picture, sample, small_model
from small_tuners import apply_sc, csc_tuner, sc_tuner

import nodes as host_nodes

WIDTHS = (512, 500)  # the decoder takes another way where the width is no multiple of 32


@pytest.fixture(autouse=True)
def any_path(monkeypatch):
    monkeypatch.setattr(folder_paths, "get_annotated_filepath", lambda name, *_: name)


def load(image: Image.Image, folder):
    image.save(folder / "loaded.png")
    return host_nodes.LoadImage().load_image(str(folder / "loaded.png"))


def load_mask(image: Image.Image, folder, channel):
    image.save(folder / "mask.png")
    node = host_nodes.LoadImageMask()
    return getattr(node, node.FUNCTION)(str(folder / "mask.png"), channel)[0]  # hosts name it differently


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA"])
def test_label_maps_of_every_kind_are_read(pack, tmp_path, mode, width):
    classes = np.arange(150, dtype=np.uint8)
    labels = np.concatenate([classes, [255], np.resize(classes, width - 151)])[None].repeat(64, 0).astype(np.uint8)
    image = Image.fromarray(labels)
    if mode == "P":
        image = image.convert("P")
        image.putpalette([v for v in range(256) for _ in range(3)])
    elif mode != "L":
        image = image.convert(mode)
    node = pack.nodes["SCEditSegmentation"]
    found = node.execute(detector="upernet-convnext-small", labels=load(image, tmp_path)[0]).args[0]
    expected = node.execute(
        detector="upernet-convnext-small", labels=torch.from_numpy(labels)[None, ..., None].float() / 255
    )
    assert torch.equal(found, expected.args[0])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGB"])
def test_white_is_white_and_black_is_black(pack, tmp_path, mode, width):
    """A white mask is no mask, a black one the base model, and a hint's lines are 1, bit for bit."""
    black_and_white = np.zeros((64, width), np.uint8)
    black_and_white[:, ::7] = 255
    image = Image.fromarray(black_and_white).convert(mode)
    hint = pack.hints.resized(load(image, tmp_path)[0].movedim(-1, 1), 64, width, "crop", csc_tuner(pack).tuner)
    assert hint.unique().tolist() == [0, 1]
    for value in (0, 255):
        mask = load_mask(Image.new("L", (width, 64), value).convert(mode), tmp_path, "red")
        assert (pack.patch.as_mask(mask) == value / 255).all()
    if mode == "LA":  # the host's MASK is what is transparent
        for value in (0, 255):
            image = Image.merge("LA", (Image.new("L", (width, 64), 9), Image.new("L", (width, 64), value)))
            assert (pack.patch.as_mask(load(image, tmp_path)[1]) == 1 - value / 255).all()


def test_a_white_mask_from_a_file_is_no_mask(pack, tmp_path):
    model, tuner = small_model(), sc_tuner(pack)
    base, whole = sample(model, steps=1), sample(apply_sc(pack, model, tuner), steps=1)
    for value, expected in ((255, whole), (0, base)):
        mask = load_mask(Image.new("L", (128, 128), value), tmp_path, "red")
        assert torch.equal(sample(apply_sc(pack, model, tuner, mask=mask), steps=1), expected)


def test_photographs_stay_as_they_are(pack, tmp_path):
    pixels = (picture(1, 64, 500)[0] * 255).round().byte().numpy()
    image = load(Image.fromarray(pixels), tmp_path)[0].movedim(-1, 1)
    assert torch.equal(pack.hints.resized(image, 64, 500, "stretch", csc_tuner(pack).tuner), image)
