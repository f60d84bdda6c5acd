"""The report: self-contained, true to the log, and written from whatever a run has left."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

from scedit_core.fitting.curves import Curve, draw_curves, smooth, thin
from scedit_core.fitting.event_log import EVENTS_FILE, EventLog
from scedit_core.fitting.report import _curves, write_report
from training.config_file import parse_config
from training.seeing.run_config import write_run_config


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.text, self._hidden = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        self._hidden = tag == "style"

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        self.text += "" if self._hidden else data


def write_log(folder, events):
    log = EventLog(folder / EVENTS_FILE)
    for second, event in enumerate(events):
        log.take({"time": f"2026-01-02T10:00:{second % 60:02d}+00:00", **event})
    log.close()


def steps(count, of):
    return [
        {"event": "step", "step": i, "steps": of, "loss": 1 / i, "learning_rate": 1e-4, "images_per_second": 3.0}
        for i in range(1, count + 1)
    ]


VALIDATION = {"event": "validation", "loss_with": 0.088, "loss_without": 0.1, "images": 8}
CONTROL = {"loss_other_hint": 0.099, "gap": 0.011, "gap_error": 0.001, "pairs": 32}
CONTROL |= {"loss_trained": 0.08, "loss_trained_without": 0.1}


def test_a_report_stands_alone_and_tells_what_was(control_values, tmp_path):
    control_values |= {"run": str(tmp_path), "title": "Edges <of> things"}
    write_run_config(parse_config(control_values))
    (tmp_path / "previews").mkdir()
    for name in ("grid", "step-000020"):
        Image.new("RGB", (30, 20)).save(tmp_path / "previews" / f"{name}.jpg")
    rows = [{"timestep": 250, "loss_with": 0.1, "loss_without": 0.2, "loss_other_hint": 0.15}]
    write_log(
        tmp_path,
        [
            {"event": "plan", "images": 5, "batch": 2, "base": "tiny", "condition": "canny", "resolution": 64}
            | {"steps": 40, "epochs": 8.0},
            *steps(20, 20),
            VALIDATION | CONTROL | {"step": 10},
            VALIDATION | CONTROL | {"step": 20, "by_timestep": rows},
            {"event": "preview", "step": 20, "path": "elsewhere/step-000020.jpg"},
            {"event": "note", "message": "3 files were skipped"},
        ],
    )
    text = write_report(tmp_path).read_text("utf-8")
    page = Page(text)
    assert [s[:23] for s in page.sources] == ["data:image/jpeg;base64,"] * 2
    assert "url(http" not in text
    for words in (
        "Edges <of> things",
        "Controllable SC-Tuner for canny, trained on tiny, 20 steps, 02 January 2026",
        "lowers the validation loss by 12.0 % on pictures that it has not seen, and lowers it by 20.0 % on its own.",
        "With the hint of another picture it lowers the loss by 1.0 %, a gap of 11.00 % with a standard error of",
        "1.00 %: it follows its hint.",
        "3 files were skipped",
        "0.15000",
        "rounds through them4.0",  # of 8 that were planned
        "type: canny",
        "after step 20, on 8 pictures",
    ):
        assert words in " ".join(page.text.split())
    assert text.count("<svg") == 3
    assert "prefers-color-scheme: dark" in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert "var(--one)" in svg
        ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("validation", "told", "words"),
    [
        ({"hold_out": 2}, {"unseen": True}, "was not trained on."),
        ({"hold_out": 2}, {"unseen": False}, "was trained on: with other pictures in validation.folder"),
        ({"hold_out": 2}, {}, "was not trained on."),  # a log from before this was told
        ({}, {"unseen": False}, "was trained on: with validation.hold_out"),
    ],
)
def test_a_report_says_whether_it_was_measured_on_pictures_trained_on(values, tmp_path, validation, told, words):
    values |= {"run": str(tmp_path), "validation": validation}
    write_run_config(parse_config(values))
    write_log(tmp_path, [{"event": "plan", "images": 5}, *steps(2, 2), VALIDATION | {"step": 2} | told])
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert f"Measured on pictures that it {words}" in " ".join(page.text.split())


def test_a_report_of_a_run_that_was_stopped_early(tmp_path):
    write_log(tmp_path, [{"event": "plan", "images": 5}, *steps(1, 50)])
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert "1 of 50 steps so far" in page.text


def test_a_report_of_a_run_that_goes_on_loads_itself_again(tmp_path):
    write_log(tmp_path, [{"event": "plan", "images": 5}, *steps(1, 50)])
    assert 'http-equiv="refresh"' in write_report(tmp_path, live=True).read_text("utf-8")
    assert 'http-equiv="refresh"' not in write_report(tmp_path).read_text("utf-8")


def test_a_report_lists_tuners_with_their_pictures_and_marks_the_best(values, tmp_path):
    values |= {"run": str(tmp_path)}
    write_run_config(parse_config(values))
    pictures = tmp_path / "previews" / "pictures"
    pictures.mkdir(parents=True)
    for step in (10, 20):
        Image.new("RGB", (300, 200)).save(pictures / f"step-{step:06d}-0.jpg")
    (tmp_path / "previews" / "trained.jpg").write_bytes((pictures / "step-000010-0.jpg").read_bytes())
    losses = {10: 0.08, 20: 0.09, 30: 0.1}
    write_log(
        tmp_path,
        [
            {"event": "plan", "images": 5, "fresh": True, "unused": ["a.png: broken", "b.png: broken, too"]},
            *steps(30, 30),
            *(VALIDATION | {"step": step, "loss_with": loss, "unseen": True} for step, loss in losses.items()),
            *({"event": "tuner", "step": n, "path": f"x/style-step-{n:06d}.safetensors"} for n in (10, 20)),
            {"event": "finished", "step": 30, "path": "x/style.safetensors"},
        ],
    )
    text = write_report(tmp_path).read_text("utf-8")
    page = Page(text)
    rows = re.findall(r"style\S*safetensors(?: \(best\))?", page.text.partition("Tuners on the way")[2])
    assert rows[:3] == [
        *("style-step-000010.safetensors (best)", "style-step-000020.safetensors", "style.safetensors"),
    ]
    assert len(page.sources) == 3  # two small pictures, and those that are trained on
    assert f"tuner: {os.path.abspath('x/style.safetensors')}" in page.text
    assert "Files that are not used (2)" in page.text
    assert "b.png: broken, too" in page.text


@pytest.mark.parametrize(("fresh", "first"), [(True, 0), (False, 10)])
def test_the_curves_of_a_fresh_tuner_begin_with_the_base(fresh, first):
    told = [VALIDATION | CONTROL | {"step": 10}]
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scedit_core.fitting.report.draw_curves", lambda curves, *_: drawn.extend(curves))
        _curves([], told, {"fresh": fresh})
    at = {curve.name: dict(zip(curve.x, curve.y, strict=True)) for curve in drawn}
    assert min(at["with the tuner"]) == first
    if fresh:
        assert {name: places[0] for name, places in at.items()} == dict.fromkeys(at, 0.1)


def test_a_report_of_a_run_that_never_began(tmp_path):
    write_log(tmp_path, [{"event": "error", "message": "no base"}])
    assert write_report(tmp_path).is_file()
    with pytest.raises(OSError, match=EVENTS_FILE):
        write_report(tmp_path / "none")


def test_curves_are_thinned_and_smoothed():
    x, y = thin(range(100_000), range(100_000))
    assert len(x) < 3002
    assert (x[0], x[-1], y[-1]) == (0, 99_999, 99_999)
    assert thin([], []) == ([], [])
    assert smooth([4.0] * 9) == [4.0] * 9
    assert smooth([0.0, 1.0]) == [0.0, 0.5]
    assert smooth([1.0] + [0.0] * 500)[-1] < 0.01
    assert smooth([]) == []
    assert draw_curves([Curve([1], [1.0])], "step").startswith("<svg")
