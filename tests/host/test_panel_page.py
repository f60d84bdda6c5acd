"""The panel of a training and the notice of an error on the real page, told what a server tells."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import chromium
import help_graphs
import pytest

SCRIPT = Path(chromium.__file__).with_name("test_panel.mjs")


@pytest.fixture(scope="module")
def seen(server, tmp_path_factory) -> dict:
    """What the page shows, see tests/browser/test_panel.mjs."""
    try:
        environment = {**os.environ, **chromium.requirements()}
    except chromium.NoBrowser as reason:
        pytest.skip(f"PAGE NOT TESTED in a browser: {reason}")
    folder = tmp_path_factory.mktemp("panel")
    trains = help_graphs.train_on_model()["10"]
    widgets = {key: value for key, value in trains["inputs"].items() if not isinstance(value, list)}
    graph = {
        "10": {**trains, "inputs": {**widgets, "name": "own"}},
        "11": {**trains, "inputs": {**widgets, "name": ["40", 0]}},
        "12": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "40": {"class_type": "PrimitiveString", "inputs": {"value": "linked"}},
    }
    (folder / "graph.json").write_text(json.dumps(graph))
    command = ["node", str(SCRIPT), server.url, str(folder / "graph.json"), str(folder / "result.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "result.json").read_text())
    assert "error" not in result, result
    assert [each for each in result["problems"] if "scedit" in each.lower() and "Failed to load" not in each] == []
    return result


def test_a_training_is_shown_on_the_node_that_started_it(seen):
    """Whatever its name is by now; in another workflow on a node of its name."""
    assert seen["names"] == {
        "renamed": {"10": "earlier"},
        "another_workflows_link": {},
        "another_workflows_name": {"10": "own"},
        "unsaved_other_name": {},
        "programs_link": {"11": "any"},
        "programs_name": {"10": "own"},
        "programs_other_name": {},
        "sub/x": {"10": "sub/x"},
        "sub\\x": {"10": "sub\\x"},
    }


def test_an_answer_that_comes_late_changes_nothing_that_is_newer(seen):
    assert seen["late"] == {"10": "newer"}
    assert seen["lost"] == {"10": "stopped", "11": "running"}


def test_stop_can_be_pressed_again_where_the_server_did_not_hear_it(seen):
    assert seen["stop"] == [True, True]


def test_the_panel_is_as_wide_after_a_look_at_the_nodes_properties(seen):
    before, after = seen["properties"]
    assert after == before


def test_the_wheel_and_the_middle_button_move_the_canvas_over_the_panel(seen):
    moved = seen["canvas"]
    assert moved["head"] < 1
    assert moved["scrolling"] == 1
    assert moved["with_control"] < 1
    assert moved["moved"] > 100


def test_a_notice_names_the_node_and_is_there_unless_its_sentence_is_in_sight(seen):
    assert seen["notices"] == {
        "inside": "within",
        "of_another_workflow": "Empty Latent Image",
        "in_the_window": None,
        "outside": "Train SCEdit on Model",
    }
