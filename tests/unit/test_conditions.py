"""Conditions that need no network: what pictures they take, canny, colour palette and completion."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from scedit_core.conditions.canny import CannyOptions, canny
from scedit_core.conditions.color_palette import ColorPaletteOptions, color_palette
from scedit_core.conditions.completion import Margins, inpainting, outpainting
from scedit_core.conditions.pictures import as_pictures
from scedit_core.errors import ConditionError

CONDITIONS = {
    "canny": canny,
    "blurred canny": lambda images: canny(images, CannyOptions(blur=2)),
    "color_palette": color_palette,
    "inpainting": lambda images: inpainting(images, torch.ones(5, 7)).hint,
}


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    """[1,512,512,3] in 0..1."""
    return torch.from_numpy(data.astronaut())[None].float() / 255


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 513), (511, 509)], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_any_size_and_batch(condition, size, batch):
    images = noise(batch, *size, 3)
    before = images.clone()
    found = condition(images)
    assert found.shape == (batch, *size, 3)
    assert found.dtype == torch.float32
    assert torch.equal(images, before)
    if batch:
        assert 0 <= found.min() <= found.max() <= 1
        assert torch.equal(found, torch.cat([condition(image[None]) for image in images]))


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_alpha_grey_and_bytes(condition, photograph):
    expected = condition(photograph)
    assert torch.equal(condition(torch.cat([photograph, noise(1, 512, 512, 1)], -1)), expected)
    assert torch.equal(condition((photograph * 255).round().to(torch.uint8)), expected)
    grey = photograph[..., :1]
    assert torch.equal(condition(grey), condition(grey.expand(-1, -1, -1, 3)))
    assert torch.equal(condition(photograph * 3 - 1), condition((photograph * 3 - 1).clamp(0, 1)))


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(condition, value, one_sentence):
    images = noise(2, 9, 9, 3)
    images[1, 8, 8, 2] = value
    with pytest.raises(ConditionError) as raised:
        condition(images)
    one_sentence(raised, "NaN")


@pytest.mark.parametrize(
    "images",
    [noise(8, 8, 3), noise(1, 3, 8, 8), noise(1, 0, 8, 3), noise(1, 8, 8, 2), torch.ones(1, 8, 8, 3, dtype=torch.long)],
    ids=["no batch", "channels first", "no rows", "two channels", "whole numbers"],
)
def test_what_is_no_picture_is_refused(images, one_sentence):
    with pytest.raises(ConditionError) as raised:
        as_pictures(images)
    one_sentence(raised, "image")


def test_an_alpha_channel_of_nan_does_not_matter(photograph):
    alpha = torch.full((1, 512, 512, 1), float("nan"))
    assert torch.equal(as_pictures(torch.cat([photograph, alpha], -1)), photograph)


def test_without_opencv_or_with_one_that_cannot_be_loaded(photograph, monkeypatch, one_sentence):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConditionError) as raised:
        canny(photograph)
    one_sentence(raised, "cv2", "pip install opencv-python-headless")
    assert inpainting(photograph, torch.ones(5, 7)).hint.shape == photograph.shape


@pytest.mark.parametrize("size", [(64, 64), (100, 97), (3, 5), (301, 200)], ids=str)
@pytest.mark.parametrize("cell", [1, 2, 7, 16, 64, 4096])
def test_palette_is_that_of_cv2_on_the_whole_picture(size, cell):
    """It reads only some of the rows; cv2 gives the same from all of them."""
    images = noise(2, *size, 3) * 1.4 - 0.2
    height, width = size
    squares = (max(1, width // cell), max(1, height // cell))
    for image, found in zip(images, color_palette(images, ColorPaletteOptions(cell)), strict=True):
        pixels = cv2.convertScaleAbs(image.clamp(0, 1).numpy(), alpha=255)
        small = cv2.resize(pixels, squares, interpolation=cv2.INTER_CUBIC)
        expected = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
        assert np.array_equal((found * 255).round().numpy(), expected)


def test_canny_options_are_those_of_cv2(photograph):
    picture = data.astronaut()
    expected = cv2.Canny(cv2.GaussianBlur(picture, (0, 0), 1.5), 30, 90)
    found = canny(photograph, CannyOptions(low=30, high=90, blur=1.5))[0]
    for channel in found.unbind(-1):
        assert np.array_equal((channel * 255).numpy(), expected)
    assert 0.02 < found.mean() < 0.5


def test_palette_is_a_mosaic(photograph):
    found = color_palette(photograph, ColorPaletteOptions(cell=128))[0]
    squares = found.reshape(4, 128, 4, 128, 3).transpose(1, 2)
    assert torch.equal(squares, squares[:, :, :1, :1].expand_as(squares))
    assert len(squares[:, :, 0, 0].reshape(16, 3).unique(dim=0)) > 12


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CannyOptions(low=-1), "canny low"),
        (lambda: CannyOptions(high=float("nan")), "canny high"),
        (lambda: CannyOptions(blur=1e9), "canny blur"),
        (lambda: ColorPaletteOptions(cell=0), "color_palette cell"),
        (lambda: Margins(left=-8), "left"),
        (lambda: Margins(bottom=10**6), "bottom"),
    ],
)
def test_options_have_bounds(make, words, one_sentence):
    with pytest.raises(ConditionError) as raised:
        make()
    one_sentence(raised, words)


def test_inpainting_blackens_what_is_masked(photograph):
    mask = torch.zeros(1, 256, 256)
    mask[:, 10:20, 30:50] = 1
    found = inpainting(photograph, mask)
    assert torch.equal(found.image, photograph)
    assert found.mask.sum() == 20 * 40  # the mask is half as large as the picture
    assert not found.hint[:, 20:40, 60:100].any()
    outside = found.mask[..., None].expand_as(photograph) == 0
    assert torch.equal(found.hint[outside], photograph[outside])
    assert torch.equal(inpainting(photograph, mask[0]).hint, found.hint)


def test_one_mask_for_a_batch_or_one_each():
    images, masks = noise(3, 6, 6, 3), torch.eye(3)[:, :, None].expand(3, 3, 3)
    found = inpainting(images, masks)
    for image, mask, hint in zip(images, masks, found.hint, strict=True):
        assert torch.equal(inpainting(image[None], mask).hint[0], hint)
    assert inpainting(images, masks[:1]).mask.shape == (3, 6, 6)
    assert inpainting(images[:0], masks[:1]).mask.shape == (0, 6, 6)


@pytest.mark.parametrize(
    "mask", [torch.ones(2, 6, 6), torch.ones(6), torch.full((6, 6), float("nan"))], ids=["two", "one row", "NaN"]
)
def test_masks_that_do_not_fit_are_refused(mask, one_sentence):
    with pytest.raises(ConditionError) as raised:
        inpainting(noise(3, 6, 6, 3), mask)
    one_sentence(raised, "mask")


@pytest.mark.parametrize(
    ("size", "margins", "canvas", "corner"),
    [
        ((512, 512), Margins(right=64), (512, 576), (0, 0)),
        ((512, 512), Margins(left=100), (512, 640), (0, 128)),
        ((500, 500), Margins(), (512, 512), (0, 0)),
        ((100, 100), Margins(left=10, right=30, top=1), (128, 192), (28, 23)),
        ((1, 1), Margins(), (64, 64), (0, 0)),
    ],
    ids=str,
)
def test_outpainting_canvas(size, margins, canvas, corner):
    images = noise(2, *size, 3)
    found = outpainting(images, margins)
    top, left = corner
    inside = (slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
    assert found.hint.shape == found.image.shape == (2, *canvas, 3)
    assert torch.equal(found.hint[inside], images)
    assert torch.equal(found.image[inside], images)
    assert not found.mask[inside].any()
    assert found.mask.sum() == 2 * (canvas[0] * canvas[1] - size[0] * size[1])
    new = found.mask == 1
    assert not found.hint[new].any()
    assert (found.image[new] == 0.5).all()
