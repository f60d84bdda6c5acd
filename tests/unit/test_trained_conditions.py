"""Options that a tuner's metadata gives: how its hints were made."""

from __future__ import annotations

import json

import pytest

from scedit_core.conditions.canny import CannyOptions
from scedit_core.conditions.color_palette import ColorPaletteOptions
from scedit_core.conditions.depth import DepthOptions
from scedit_core.conditions.pose import PoseOptions
from scedit_core.conditions.random_masks import CompletionOptions
from scedit_core.conditions.segmentation import SegmentationOptions
from scedit_core.conditions.soft_edge import SoftEdgeOptions
from scedit_core.conditions.trained import trained_options
from scedit_core.errors import ConditionError


def metadata(**condition) -> dict[str, str]:
    return {"scedit.condition": json.dumps(condition)}


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        (metadata(type="canny", low=50, high=120.5, blur=1), CannyOptions(50, 120.5, 1)),
        (metadata(type="canny", high=120, made_by="another program"), CannyOptions(high=120)),
        (metadata(type="canny", low=None), CannyOptions()),
        ({"scedit.condition": "canny"}, CannyOptions()),
        ({"scedit.condition": '"canny"'}, CannyOptions()),
        (metadata(type="color_palette", cell=32), ColorPaletteOptions(32)),
        (metadata(type="depth", invert=True), DepthOptions(True)),
        (metadata(type="soft_edge", polarity="light_on_dark", safe=True), SoftEdgeOptions("light_on_dark", True)),
        (metadata(type="pose", joint_threshold=0.5), PoseOptions(joint_threshold=0.5)),
        (metadata(type="segmentation", detector="segformer-b0-ade"), SegmentationOptions("segformer-b0-ade")),
        (metadata(type="completion", outer=1), CompletionOptions(outer=1.0)),
    ],
)
def test_options_are_read(notes, expected):
    found = trained_options(notes, type(expected)())
    assert found == expected
    assert [type(v) for v in vars(found).values()] == [type(v) for v in vars(type(expected)()).values()]


@pytest.mark.parametrize("notes", [{}, {"scedit.condition": ""}], ids=["none", "empty"])
def test_nothing_said(notes):
    assert trained_options(notes, CannyOptions(low=7)) == CannyOptions(low=7)


def test_detectors_that_are_not_named_are_those_set_by_hand():
    by_hand = DepthOptions(detector="depth-anything-v2-small")
    assert trained_options(metadata(type="depth", invert=True), by_hand) == DepthOptions(True, by_hand.detector)
    named = metadata(type="depth", detector="dpt-hybrid-midas")
    assert trained_options(named, by_hand) == DepthOptions(detector="dpt-hybrid-midas")
    assert trained_options(metadata(type="canny", low=5), CannyOptions(high=7)) == CannyOptions(low=5)


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        (metadata(type="pose"), ("trained on canny", "'pose'")),
        ({"scedit.condition": "[1]"}, ("JSON",)),
        ({"scedit.condition": "[" * 100_000}, ("canny",)),
        (metadata(low=1), ("JSON",)),
        (metadata(type="canny", low="many\nlines"), ("canny low",)),
        (metadata(type="canny", low=True), ("canny low",)),
        ({"scedit.condition": '{"type": "canny", "low": NaN}'}, ("canny low",)),
        ({"scedit.condition": '{"type": "canny", "blur": 1e300}'}, ("canny blur",)),
        (metadata(type="canny", blur=-1), ("canny blur", "from 0")),
    ],
    ids=["another", "list", "deep", "no type", "text", "truth", "NaN", "huge", "negative"],
)
def test_what_cannot_be_read_is_one_sentence(notes, words, one_sentence):
    with pytest.raises(ConditionError) as raised:
        trained_options(notes, CannyOptions())
    one_sentence(raised, *words)


@pytest.mark.parametrize(
    "notes", [metadata(type="color_palette", cell=2.5), metadata(type="color_palette", cell=10**9)]
)
def test_cells_are_whole_and_bounded(notes, one_sentence):
    with pytest.raises(ConditionError) as raised:
        trained_options(notes, ColorPaletteOptions())
    one_sentence(raised, "color_palette cell")
