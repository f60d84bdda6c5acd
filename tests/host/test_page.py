"""The real page in headless Chromium: every template dropped on it, one graph run from it, help and languages."""

from __future__ import annotations

import io
import json

import chromium
import cv2
import graph_parts
import graphs
import help_graphs
import numpy as np
import pytest
from conftest import PACK_ROOT
from PIL import Image

WORKFLOWS = {stem: json.loads(graphs.template(stem).read_text("utf-8")) for stem in graphs.WORKFLOWS}


@pytest.fixture(scope="module")
def visit(server, tmp_path_factory):
    """Does tasks on the page of the server (see tests/browser/page.mjs)."""
    try:
        chromium.requirements()
    except chromium.NoBrowser as reason:
        pytest.skip(f"PAGE NOT TESTED in a browser: {reason}")
    return lambda tasks: chromium.visit(server.url, tasks, tmp_path_factory.mktemp("page"))


def ours(problems: list[str]) -> list[str]:
    return [problem for problem in problems if "scedit" in problem.lower()]


def test_every_template_can_be_dropped_on_the_canvas(visit):
    results = visit([{"name": stem, "workflow": workflow} for stem, workflow in WORKFLOWS.items()])
    assert [result["name"] for result in results] == list(WORKFLOWS)
    for result in results:
        assert "failed" not in result, result
        expected = graphs.WORKFLOWS[result["name"]].graph()
        assert result["missing"] == []
        types = [name for name in result["types"] if name != "MarkdownNote"]
        assert sorted(types) == sorted(each["class_type"] for each in expected.values())
        assert {tuple(link) for link in result["links"]} == set(graph_parts.links(expected))
        assert ours(result["problems"]) == []


def test_a_graph_run_from_the_page_ends_in_a_picture_that_follows_its_edges(visit, server):
    """Queued by the Run button on the embedded base; the picture appears on the node that saves it."""
    on = help_graphs.csc_tuner()
    off = help_graphs.csc_tuner()
    off["31"]["inputs"]["strength"] = 0.0
    results = visit([{"name": name, "api": graph, "run": True} for name, graph in (("on", on), ("off", off))])
    followed = {}
    for result in results:
        assert (result.get("failed"), result["error"]) == (None, None)
        assert ours(result["problems"]) == []
        pictures = {node: (width, height, address) for node, width, height, address in result["shown"]}
        assert pictures["7"][:2] == (256, 256)
        made = server.fetch(pictures["7"][2].removeprefix(server.url))
        followed[result["name"]] = edge_f1(made, (server.base / "input" / help_graphs.SCENE).read_bytes())
    assert followed["on"] > 0.8 > followed["off"]


def edge_f1(made: bytes, wanted: bytes) -> float:
    """How well the edges of two pictures agree, one pixel aside being right."""
    found, hint = (
        cv2.Canny(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize((128, 128))), 100, 200) > 0
        for picture in (made, wanted)
    )
    near = [cv2.dilate(edges.astype(np.uint8), np.ones((3, 3))) > 0 for edges in (found, hint)]
    precision, recall = (found & near[1]).sum() / found.sum(), (hint & near[0]).sum() / hint.sum()
    return 2 * precision * recall / (precision + recall)


def test_help_opens_with_its_picture(visit):
    result = visit([{"name": "help", "help": "SCEditApplySCTuner"}])[0]
    assert "failed" not in result, result
    assert "Every sampler, LoRA, ControlNet and upscaler works" in result["text"]
    assert result["pictures"]
    assert all(width > 100 for width in result["pictures"])


def test_the_page_in_chinese_has_chinese_nodes(visit):
    stem = "csc_canny_on_model_sdxl"
    api = graphs.WORKFLOWS[stem].graph()
    result = visit([{"name": stem, "api": api, "locale": "zh"}])[0]
    assert "failed" not in result, result
    names = json.loads((PACK_ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    for each in api.values():
        if each["class_type"] in names:
            assert names[each["class_type"]]["display_name"] in result["titles"]
