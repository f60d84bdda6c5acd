"""A tuner in words."""

from __future__ import annotations

from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.describing import describe

SD = SkipLayout.from_channels((1280,) * 5 + (640,) * 3 + (320,) * 4)


def test_what_is_known_is_told():
    notes = {
        "scedit.condition": '{"type": "canny", "low": 100, "high": 200}',
        "scedit.prediction": "v_prediction",
        "scedit.resolution": "768",
        "scedit.scale": "0.5",
        "modelspec.title": "Edges",
    }
    text = describe(CSCTuner(SD, metadata=notes, device="meta"), "edges.safetensors")
    assert text.splitlines() == [
        "title: Edges",
        "kind: Controllable SC-Tuner (control)",
        "base model: SD 1.5 or SD 2.1",
        "size: 28.82 M parameters, float32",
        "blocks: 12 of 12 skips edited: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
        "hidden widths: 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320, 320",
        "condition: canny (low 100, high 200)",
        "scale: 0.5",
        "prediction: v_prediction",
        "trained resolution: 768",
        "source: edges.safetensors",
    ]


def test_what_is_not_known_is_said_so():
    text = describe(SCTuner(SD, blocks=[0], device="meta"))
    for line in ("prediction: not stated", "trained resolution: not stated", "blocks: 1 of 12 skips edited: 0"):
        assert line in text.splitlines()
    assert "condition" not in text


def test_a_condition_of_any_form_is_shown():
    for written, shown in (("canny", "canny"), ('["a"]', "['a']"), ("{}", "not stated"), ('{"type": "hed"}', "hed")):
        text = describe(CSCTuner(SD, metadata={"scedit.condition": written}, device="meta"))
        assert f"condition: {shown}" in text.splitlines()
