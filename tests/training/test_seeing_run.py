"""A run goes on where previews cannot be drawn, and its report says on what was measured."""

from __future__ import annotations

import pytest
import torch

from scedit_core.fitting.event_log import read_events
from training.config_file import parse_config
from training.loop import train
from training.seeing.previews import Previews


def test_the_report_of_a_set_too_small_to_hold_out_of(values):
    values |= {"previews": {"every": 0}, "validation": {"hold_out": 2, "timesteps": 1}, "tensorboard": False}
    config = parse_config(values)
    train(config)
    report = (config.run_folder / "report.html").read_text("utf-8")
    assert "Measured on pictures that it was trained on" in report
    assert "validation.hold_out: expected at least 20 pictures" in report


@pytest.mark.parametrize(
    ("error", "words"), [(OSError(28, "No space left on device"), "No space"), (None, "no memory")]
)
def test_previews_that_fail_are_a_note(values, monkeypatch, error, words):
    """The failure is raised by hand: a disk is not filled and a GPU not exhausted for a test."""
    values |= {"previews": {"every": 1, "steps": 1}, "validation": {"every": 0}, "tensorboard": False}
    config = parse_config(values)

    def fail(*_args, **_options):
        raise error or torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Previews, "draw", fail)
    assert train(config).is_file()
    events = read_events(config.run_folder / "events.jsonl")
    notes = [e["message"] for e in events if e["event"] == "note"]
    assert [words in note for note in notes] == [True, True]
    assert events[-1]["event"] == "finished"
    assert (config.run_folder / "report.html").is_file()
