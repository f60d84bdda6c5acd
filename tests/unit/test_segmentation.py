"""Segmentation with a small random UperNet and SegFormer, saved and loaded as real ones are, and the palette."""

from __future__ import annotations

import pytest
import torch

from scedit_core.conditions.segmentation import PALETTE, load_segmentation, palette_picture, segmentation
from scedit_core.errors import ConditionError


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["upernet", "segformer"])
def network(request, tmp_path_factory, save_detector):
    return load_segmentation(save_detector(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.mark.parametrize("size", [(1, 1), (7, 513), (131, 75)], ids=str)
def test_any_size_and_batch(network, size):
    images, seen = noise(2, *size, 4), []
    found = segmentation(images, network, on_picture=lambda: seen.append(1))
    assert found.shape == (2, *size, 3)
    assert len(seen) == 2
    colours = {tuple(bytes.fromhex(c)) for c in PALETTE}
    assert {tuple(c) for c in (found * 255).round().long().reshape(-1, 3).tolist()} <= colours
    assert torch.equal(found, torch.cat([segmentation(image[None, ..., :3], network) for image in images]))
    assert segmentation(images[:0], network).shape == (0, *size, 3)


def test_each_pixel_has_the_colour_of_its_likeliest_class(network):
    picture = noise(1, 96, 96, 3)
    logits = network(picture.permute(0, 3, 1, 2))
    grown = torch.nn.functional.interpolate(logits, size=(96, 96), mode="bilinear")
    labels = grown.argmax(1)
    assert len(labels.unique()) > 1
    assert torch.equal(segmentation(picture, network), palette_picture(labels))


def test_the_palette_is_the_standard_one():
    """Colours that other tools and trained controls know by class: wall, sky, person, car and flag, the last."""
    found = palette_picture(torch.tensor([[[0, 2, 12, 20, 149]]])) * 255
    assert found[0, 0].round().tolist() == [[120, 120, 120], [6, 230, 230], [150, 5, 61], [0, 102, 200], [92, 0, 255]]
    assert len(PALETTE) == 150


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(1, 2, 2), torch.zeros(2, 2).long(), torch.full((1, 2, 2), 150), torch.full((1, 2, 2), -1)],
    ids=["floats", "no batch", "too many", "negative"],
)
def test_label_maps_that_are_none(labels, one_sentence):
    with pytest.raises(ConditionError) as raised:
        palette_picture(labels)
    one_sentence(raised, "labels")


def test_other_classes_and_other_models_are_refused(tmp_path, save_detector, one_sentence):
    folder = save_detector("segformer", tmp_path / "cityscapes", labels=19)
    with pytest.raises(ConditionError) as raised:
        load_segmentation(folder)
    one_sentence(raised, "150 classes", "19")
    with pytest.raises(ConditionError) as raised:
        load_segmentation(save_detector("depth_anything", tmp_path / "depth"))
    one_sentence(raised, "depth")


def test_nothing_but_numbers(network, one_sentence):
    with pytest.raises(ConditionError) as raised:
        segmentation(torch.full((1, 8, 8, 3), float("nan")), network)
    one_sentence(raised, "NaN")
