"""Segmentation with a small random UperNet, SegFormer and OneFormer, saved and loaded as real ones, and the palette."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

from scedit_core.conditions.segmentation import (
    NOTHING,
    PALETTE,
    labels_of,
    load_segmentation,
    palette_picture,
    segmentation,
    stretched,
)
from scedit_core.errors import ConditionError


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


class Largest(TorchFunctionMode):
    """The most numbers that an interpolation to 97x99 pixels gives."""

    logits = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """See TorchFunctionMode."""
        made = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.interpolate and made.shape[-2:] == (97, 99):
            self.logits = max(self.logits, made.numel())
        return made


@pytest.fixture(scope="module", params=["upernet", "segformer", "oneformer"])
def network(request, tmp_path_factory, save_detector):
    return load_segmentation(save_detector(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.mark.parametrize("size", [(1, 1), (7, 513), (131, 75)], ids=str)
def test_any_size_and_batch(network, size):
    images, seen = noise(2, *size, 4), []
    found = segmentation(images, network, on_picture=lambda: seen.append(1))
    assert found.shape == (2, *size, 3)
    assert len(seen) == 2
    assert torch.isfinite(found).all()
    colours = {tuple(bytes.fromhex(c)) for c in PALETTE}
    assert {tuple(c) for c in (found * 255).round().long().reshape(-1, 3).tolist()} <= colours
    assert torch.equal(found, torch.cat([segmentation(image[None, ..., :3], network) for image in images]))
    assert segmentation(images[:0], network).shape == (0, *size, 3)


def test_each_pixel_has_the_colour_of_its_likeliest_class(network):
    picture = noise(1, 97, 99, 3)
    logits = network(picture.permute(0, 3, 1, 2))
    grown = torch.nn.functional.interpolate(logits, size=(97, 99), mode="bilinear")
    labels = grown.argmax(1)
    assert len(labels.unique()) > 1
    with Largest() as seen:
        assert torch.equal(segmentation(picture, network), palette_picture(labels))
    assert seen.logits == 10 * 97 * 99  # and not all of them, for each pixel of what may be a photograph


def test_the_palette_is_the_standard_one():
    """Colours that other tools and trained controls know by class: wall, sky, person, car and flag, the last."""
    found = palette_picture(torch.tensor([[[0, 2, 12, 20, 149]]])) * 255
    assert found[0, 0].round().tolist() == [[120, 120, 120], [6, 230, 230], [150, 5, 61], [0, 102, 200], [92, 0, 255]]
    assert len(PALETTE) == 150


def test_oneformer_is_what_transformers_gives(tmp_path, save_detector):
    """At a size that both take as it is, with its own reading of the answer."""
    import transformers

    network = load_segmentation(save_detector("oneformer", tmp_path))
    assert network.task.shape == (1, 77)
    assert network.task[0, :3].tolist() == [52, 19, 7]  # the beginning, and the t and h of "the" in the vocabulary
    assert network.task[0].count_nonzero() < 30
    picture = noise(1, 3, 96, 128)
    with torch.no_grad():
        output = network.model(pixel_values=(picture - network.mean) / network.std, task_inputs=network.task)
    (tmp_path / "classes.json").write_text('{"0": {"name": "wall", "isthing": 0}}')
    reader = transformers.OneFormerImageProcessor(repo_path=str(tmp_path), class_info_file="classes.json")
    expected = reader.post_process_semantic_segmentation(output, target_sizes=[(96, 128)])[0]
    found = segmentation(picture.permute(0, 2, 3, 1), network)
    assert len(expected.unique()) > 1
    assert (found == palette_picture(expected[None])).all(-1).float().mean() > 0.999


def test_a_ready_label_map_is_coloured():
    labels = torch.tensor([[[0, 149], [20, NOTHING]]])
    picture = (labels[..., None].expand(1, 2, 2, 3)).float() / 255
    assert torch.equal(labels_of(picture), labels)
    assert torch.equal(labels_of(picture[..., :1]), labels)
    assert torch.equal(labels_of(labels[..., None].to(torch.uint8)), labels)
    every = torch.arange(256).expand(1, 1, 256)
    assert torch.equal(labels_of((every[..., None] / 255).half()), every)  # as with ComfyUI's --fp16-intermediates
    found = palette_picture(labels_of(picture))
    assert not found[0, 1, 1].any()
    assert (found[0, 1, 0] * 255).round().tolist() == [0, 102, 200]
    one_more = torch.tensor([[[1, 150], [21, 0]]])[..., None] / 255
    assert torch.equal(labels_of(one_more, from_one=True), labels)


def test_labels_are_stretched_without_mixing():
    labels = torch.tensor([[[3, 100], [7, 255]]])
    found = stretched(labels, (4, 6))
    assert found.shape == (1, 4, 6)
    assert torch.equal(found[0, ::2, ::3], labels[0])
    assert set(found.unique().tolist()) == {3, 7, 100, 255}
    assert stretched(labels[:0], (4, 6)).shape == (0, 4, 6)


@pytest.mark.parametrize("picture", [torch.tensor([1.0, 0, 0]), torch.full((3,), 0.5019)], ids=["red", "in between"])
def test_pictures_that_are_no_label_map(picture, one_sentence):
    with pytest.raises(ConditionError) as raised:
        labels_of(picture.expand(1, 4, 4, 3))
    one_sentence(raised, "labels", "grey")


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(1, 2, 2), torch.zeros(2, 2).long(), torch.full((1, 2, 2), 150), torch.full((1, 2, 2), -1)],
    ids=["floats", "no batch", "too many", "negative"],
)
def test_label_maps_that_are_none(labels, one_sentence):
    with pytest.raises(ConditionError) as raised:
        palette_picture(labels)
    one_sentence(raised, "labels")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("preprocessor_config.json", "{}"),
        ("preprocessor_config.json", "[["),
        ("config.json", "no JSON"),
        ("vocab.json", "{"),
    ],
)
def test_damaged_folders_are_one_sentence(tmp_path, save_detector, one_sentence, file, content):
    folder = save_detector("oneformer", tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(ConditionError) as raised:
        load_segmentation(folder)
    one_sentence(raised, "download it again")


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
