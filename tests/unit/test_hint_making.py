"""The one entry for training hints: every condition, with small random detectors as files."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from scedit_core.conditions.canny import CannyOptions, canny
from scedit_core.conditions.color_palette import ColorPaletteOptions, color_palette
from scedit_core.conditions.depth import DepthOptions, depth, load_depth
from scedit_core.conditions.hed import HED, load_hed
from scedit_core.conditions.pose import PoseOptions, load_joint_finder, load_person_finder, pose
from scedit_core.conditions.random_masks import random_completion
from scedit_core.conditions.segmentation import load_segmentation, segmentation
from scedit_core.conditions.soft_edge import SoftEdgeOptions, soft_edge
from scedit_core.conditions.trained import OPTIONS, hint_maker, options_of, trained_condition
from scedit_core.errors import ConditionError


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 70, 90, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def root(tmp_path_factory, save_detector, fill):
    """A folder of detectors, as models/scedit_annotators is."""
    root = tmp_path_factory.mktemp("scedit_annotators")
    for kind, name in (
        ("dpt", "dpt-hybrid-midas"),
        ("segformer", "segformer-b0-ade"),
        ("rtdetr", "rtdetr-r50"),
        ("vitpose", "vitpose-base"),
    ):
        save_detector(kind, root / name)
    (root / "hed").mkdir()
    torch.save(fill(HED(), 1).state_dict(), root / "hed" / "ControlNetHED.pth")
    return root


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (
            {"type": "canny", "low": 20, "high": 60},
            lambda root, images: canny(images, CannyOptions(20, 60)),
        ),
        (
            {"type": "color_palette", "cell": 16},
            lambda root, images: color_palette(images, ColorPaletteOptions(16)),
        ),
        (
            {"type": "soft_edge", "polarity": "light_on_dark"},
            lambda root, images: soft_edge(
                images, load_hed(root / "hed" / "ControlNetHED.pth"), SoftEdgeOptions("light_on_dark")
            ),
        ),
        (
            {"type": "depth", "invert": True},
            lambda root, images: depth(images, load_depth(root / "dpt-hybrid-midas"), DepthOptions(True)),
        ),
        (
            {"type": "segmentation", "detector": "segformer-b0-ade"},
            lambda root, images: segmentation(images, load_segmentation(root / "segformer-b0-ade")),
        ),
        (
            {"type": "pose", "person_threshold": 0, "joint_threshold": 0},
            lambda root, images: pose(
                images,
                load_person_finder(root / "rtdetr-r50"),
                load_joint_finder(root / "vitpose-base"),
                PoseOptions(0, 0),
            ),
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_hints_are_those_of_the_condition(root, images, condition, expected):
    maker = hint_maker(condition, roots=[root])
    assert torch.allclose(maker(images), expected(root, images), atol=1e-5)
    assert maker.mirrors == (condition["type"] != "pose")
    assert options_of(maker.condition) == options_of(condition)
    told = trained_condition({"scedit.condition": json.dumps(maker.condition)})
    assert torch.equal(hint_maker(told, roots=[root])(images), maker(images))


def test_completion_draws_anew_from_its_generator(images):
    draw = torch.Generator().manual_seed(4)
    maker = hint_maker({"type": "completion"}, generator=draw)
    first, second = maker(images), maker(images)
    again = torch.Generator().manual_seed(4)
    assert torch.equal(first, random_completion(images, generator=again))
    assert torch.equal(second, random_completion(images, generator=again))
    assert not torch.equal(first, second)


def test_the_place_of_a_detector_may_be_told(root, images, tmp_path):
    condition = {"type": "depth"}
    expected = hint_maker(condition, roots=[root])(images)
    moved = tmp_path / "my depth"
    shutil.copytree(root / "dpt-hybrid-midas", moved)
    maker = hint_maker(condition, {"depth": moved, "pose": None}, roots=[tmp_path])
    assert torch.equal(maker(images), expected)
    assert maker.condition == {"type": "depth", "invert": False, "fitting": "smooth", "nothing": "black"}
    hed = hint_maker({"type": "soft_edge"}, {"soft_edge": root / "hed" / "ControlNetHED.pth"}, roots=[tmp_path])
    assert hed(images).shape == images.shape


@pytest.mark.parametrize(
    ("condition", "detectors", "words"),
    [
        ({"type": "magic"}, {}, ("condition", "'magic'", *OPTIONS)),
        ({"type": "canny", "low": "much"}, {}, ("canny low",)),
        ({"type": "depth"}, {}, ("dpt-hybrid-midas", "490 MB", "Intel/dpt-hybrid-midas")),
        ({"type": "pose"}, {}, ("rtdetr-r50", "PekingU")),
        ({"type": "segmentation", "detector": "eyes"}, {}, ("annotator", "eyes")),
        ({"type": "depth"}, {"depth": "no such folder"}, ("no such folder", "model.safetensors")),
    ],
)
def test_what_cannot_be_made_is_one_sentence(condition, detectors, words, tmp_path, one_sentence):
    with pytest.raises(ConditionError) as raised:
        hint_maker(condition, detectors, roots=[tmp_path])
    one_sentence(raised, *words)


ALL = [{"type": kind} for kind in OPTIONS if kind not in ("segmentation", "completion")] + [
    {"type": "segmentation", "detector": "segformer-b0-ade"},
    {"type": "completion", "smallest": 1.0, "largest": 1.0, "outer": 0.0},
]


@pytest.fixture(scope="module", params=ALL, ids=lambda condition: condition["type"])
def maker(request, root):
    """Each condition as it is by default; what completion leaves away is drawn alike for every call."""
    if request.param["type"] != "completion":
        return hint_maker(request.param, roots=[root])
    return lambda images: hint_maker(request.param, generator=torch.Generator().manual_seed(0))(images)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("batch", "size"), [(5, (1, 1)), (5, (7, 513)), (1, (511, 509)), (0, (9, 9))], ids=str)
def test_every_condition_on_odd_sizes_and_batches(maker, batch, size):
    found = maker(noise(batch, *size, 3))
    assert found.shape == (batch, *size, 3)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert not batch or 0 <= found.min() <= found.max() <= 1


def test_every_condition_on_alpha_grey_and_bytes(maker):
    images = (noise(1, 40, 56, 3) * 255).round()
    expected = maker(images / 255)
    assert torch.equal(maker(torch.cat([images / 255, noise(1, 40, 56, 1)], -1)), expected)
    assert torch.equal(maker(images.to(torch.uint8)), expected)
    grey = images[..., :1] / 255
    assert torch.equal(maker(grey), maker(grey.expand(-1, -1, -1, 3)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_every_condition_refuses_what_is_not_finite(maker, value, one_sentence):
    images = noise(2, 9, 9, 3)
    images[1, 4, 4, 1] = value
    with pytest.raises(ConditionError) as raised:
        maker(images)
    one_sentence(raised, "NaN")
