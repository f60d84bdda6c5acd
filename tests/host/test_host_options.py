"""The server started in other ways, and prompts sent to it in other ways: the picture stays what it is."""

from __future__ import annotations

import copy

import demo_files
import help_graphs
import numpy as np
import pytest
from conftest import HOST_ROOT, PACK_ROOT
from host_server import Server
from saved_workflow import picture_in, picture_of


def controlled(strength: float = 0.9, seed: int = 3) -> dict:
    """Edges through Apply ControlNet, on the embedded base, in four steps."""
    graph = copy.deepcopy(help_graphs.csc_tuner())
    for each in graph.values():
        if each["class_type"] == "KSampler":
            each["inputs"] |= {"steps": 4, "seed": seed}
        elif each["class_type"].startswith("ControlNetApply"):
            each["inputs"]["strength"] = strength
    return graph


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.parametrize(
    "options",
    [("--cache-none", "--fast", "--force-channels-last"), ("--cache-lru", "2", "--bf16-unet")],
    ids=["fast", "bf16"],
)
def test_options_of_the_server(server, tmp_path, options):
    """Of 255 levels each pixel is off by less than 4 on average, and a repeated prompt by none."""
    expected, uncontrolled = picture_of(server, controlled()), picture_of(server, controlled(0.0))
    assert distance(uncontrolled, expected) > 8
    demo_files.place_files(tmp_path)
    with Server(HOST_ROOT, PACK_ROOT, tmp_path, [PACK_ROOT / "tests" / "host" / "demo_nodes"], options) as other:
        first = picture_of(other, controlled())
        assert distance(first, expected) < 4
        assert distance(picture_of(other, controlled(0.0)), uncontrolled) < 4
        assert np.array_equal(picture_of(other, controlled()), first)
        assert "Traceback" not in other.log.read_text()


def test_two_prompts_in_the_queue(server):
    """Of one tuner with other strengths and seeds, both sent before either has run."""
    graphs = [controlled(0.9, 11), controlled(0.4, 12)]
    queued = [server.queue(graph) for graph in graphs]
    assert all(prompt_id for prompt_id, _ in queued), queued
    together = [picture_in(server, graph, server.wait(each[0])) for graph, each in zip(graphs, queued, strict=True)]
    for graph, found in zip(graphs, together, strict=True):
        changed = copy.deepcopy(graph)  # or the host would show what it has
        next(each for each in changed.values() if each["class_type"] == "KSampler")["inputs"]["seed"] += 100
        picture_of(server, changed)
        assert np.array_equal(picture_of(server, graph), found)


def test_one_output_of_two(server):
    """Partial execution, as the page asks for it: the other branch, whose tuner is missing, is not run."""
    graph = controlled(seed=21)
    other = {f"{name}00": copy.deepcopy(each) for name, each in controlled(seed=22).items()}
    for each in other.values():
        for field, value in each["inputs"].items():
            if isinstance(value, list):
                each["inputs"][field] = [f"{value[0]}00", value[1]]
        if each["class_type"] == "SCEditLoadCSCTuner":
            each["inputs"]["tuner_name"] = "missing.safetensors"
    prompt_id, answer = server.queue(graph | other, partial_execution_targets=["7"])
    assert prompt_id, answer
    entry = server.wait(prompt_id)
    assert "7" in entry["outputs"]
    assert "700" not in entry["outputs"]
    assert np.array_equal(picture_in(server, graph, entry), picture_of(server, graph))


def test_ids_of_subgraphs(server):
    """The page numbers nodes inside a subgraph 50:1, 50:2 and so on."""
    graph = controlled(seed=31)
    inside = {f"50:{name}": copy.deepcopy(each) for name, each in graph.items()}
    for each in inside.values():
        for field, value in each["inputs"].items():
            if isinstance(value, list):
                each["inputs"][field] = [f"50:{value[0]}", value[1]]
    assert np.array_equal(picture_of(server, inside), picture_of(server, graph))
