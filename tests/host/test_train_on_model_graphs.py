"""Training on the MODEL as a node among others: fed by core's data sets, twice in a graph, before nodes that fail."""

from __future__ import annotations

import asyncio
import importlib
import json
import os

import graph_run
import pytest
import torch
from comfy_api.latest import io
from conftest import PACK_NAME, PACK_ROOT
from demo_nodes import embedded_base
from graph_run import node
from PIL import Image
from run_left import events
from small_model import relative
from train_on_model_widgets import WIDGETS

STYLE = PACK_ROOT / "demo" / "style"
SHORT = {**WIDGETS, "steps": 2, "batch": 1, "folder": "lanterns"}


@pytest.fixture
def host(pack, folders, monkeypatch):
    """The host with three pictures in input/lanterns, one of them wide, each with its caption."""
    graph_run.register(pack, monkeypatch)
    (folders / "input" / "lanterns").mkdir()
    for i, path in enumerate(sorted(STYLE.glob("*.png"))[:3]):
        picture = Image.open(path).convert("RGB")
        picture.resize((128, 64) if i == 1 else (64, 64)).save(folders / "input" / "lanterns" / path.name)
        (folders / "input" / "lanterns" / f"{path.stem}.txt").write_text(f"a lantern, number {i}")
    return folders


def base_of(**more: dict) -> dict:
    """The embedded base as nodes 1 to 3, and others."""
    return {"1": node("SCEditDemoModel"), "2": node("SCEditDemoVAE"), "3": node("SCEditDemoCLIP"), **more}


def trained(number: str = "10", **changed) -> dict:
    """A training on the folder as a node of that number."""
    given = {"model": ("1", 0), "vae": ("2", 0), "clip": ("3", 0), **SHORT, **changed}
    return {number: node("SCEditTrainOnModel", **{k: v for k, v in given.items() if v is not None})}


def test_cores_nodes_for_data_sets_feed_it(host, training, monkeypatch):
    """Folder, captions, VAE and CLIP by core's own nodes: each picture keeps its caption, whatever its size."""
    seen = []
    original = training.running.from_graph

    def from_graph(*given):
        pictures = original(*given)
        seen.extend((picture.mean, picture.text) for picture in pictures)
        return pictures

    monkeypatch.setattr(training.running, "from_graph", from_graph)
    if "MakeTrainingDataset" in graph_run.host_nodes.NODE_CLASS_MAPPINGS:
        made = {
            "20": node("LoadImageTextDataSetFromFolder", folder="lanterns"),
            "21": node("MakeTrainingDataset", images=("20", 0), texts=("20", 1), vae=("2", 0), clip=("3", 0)),
            "22": node("ResolutionBucket", latents=("21", 0), conditioning=("21", 1)),
        }
        pictures = {"latents": ("22", 0), "positive": ("22", 1)}
    else:  # all pictures of one size
        sides = {"resize_method": "Stretch", "width": 64, "height": 64}
        made = {
            "20": node("LoadImageTextSetFromFolderNode", folder="lanterns", clip=("3", 0), **sides),
            "21": node("VAEEncode", pixels=("20", 0), vae=("2", 0)),
        }
        pictures = {"latents": ("21", 0), "positive": ("20", 1)}
    graph = base_of(**made, **trained(folder="", **pictures))
    assert graph_run.run(graph, ["10"], graph_run.executor()) == ""
    assert len(seen) == 3
    vae, clip = embedded_base.DemoVAE(), embedded_base.DemoText()
    for path in (host / "input" / "lanterns").glob("*.png"):
        image = Image.open(path)
        if "22" not in graph:
            image = image.resize((64, 64))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, *image.size[::-1], 3) / 255
        wanted = vae.encode(pixels)[0]
        alike = [each for each in seen if each[0].shape == wanted.shape]
        mean, text = min(alike, key=lambda each: float((each[0] - wanted).norm()))
        states = clip.encode(path.with_suffix(".txt").read_text())[0][0]
        assert relative(mean, wanted) < 0.2
        assert torch.equal(text.states, states)


@pytest.mark.skipif(os.environ.get("SCEDIT_TEST_PART") == "no server", reason="ten seconds, alike on all hosts")
def test_two_trainings_in_one_graph(pack, host, training):
    """The second with the tuner of the first at work; both are delivered, and shown to a page that is opened later."""
    apply = node("SCEditApplySCTuner", model=("1", 0), sc_tuner=("10", 0), strength=1.0, start_percent=0.0)
    apply["inputs"] |= {"end_percent": 1.0, "side": "both"}
    graph = base_of(**trained(name="first", preview_every=2), **trained("11", name="second", model=("12", 0)))
    graph["12"] = apply
    assert graph_run.run(graph, ["10", "11"], graph_run.executor()) == ""
    first, second = (pack.core.load_tuner(host / "scedit" / f"{name}.safetensors") for name in ("first", "second"))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    page = importlib.import_module(f"{PACK_NAME}.nodes.training.page")
    shown = {each["name"]: each for each in json.loads(asyncio.run(page._trainings(None)).body)}
    assert [(shown[name]["state"], shown[name]["step"]) for name in ("first", "second")] == [("finished", 2)] * 2
    assert shown["first"]["preview"] == 2
    assert asyncio.run(page._preview(_asks("first"))).status == 200


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [({"workflow": {"id": "its own"}}, "its own"), ({}, None), ({"workflow": "?"}, None), ("?", None)],
)
def test_the_page_is_told_which_workflow_trains_and_of_an_error_without_words(pack, host, monkeypatch, sent, wanted):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(importlib.import_module(f"{PACK_NAME}.nodes.training.on_model"), "sources_of", fail)
    graph = base_of(**trained(name="told"))
    graph_run.run(graph, ["10"], graph_run.executor(), extra_pnginfo=sent)
    shown = importlib.import_module(f"{PACK_NAME}.nodes.training.page")._shown["told"]
    assert (shown["node"], shown["workflow"]) == ("10", wanted)
    assert (shown["state"], shown["text"]) == ("failed", "AssertionError")


@pytest.mark.parametrize("name", ["SCEditTrainTuner", "SCEditTrainOnModel", "SCEditDistillControlNet"])
def test_each_node_that_trains_is_told_the_workflow(pack, name):
    assert {io.Hidden.unique_id, io.Hidden.extra_pnginfo} <= set(pack.nodes[name].GET_SCHEMA().hidden)


def _asks(name: str):
    from aiohttp.test_utils import make_mocked_request

    return make_mocked_request("GET", f"/scedit/training/preview?name={name}")


def test_the_name_of_another_training_of_the_graph_is_refused_and_the_tuner_kept(host):
    graph = base_of(**trained(name="one"), **trained("11", name="one", seed=5))
    said = graph_run.run(graph, ["10", "11"], graph_run.executor())
    assert "found other values for" in said
    assert "turn resume off to begin anew, which keeps the earlier run" in said
    assert "--resume" not in said
    assert "loop." not in said
    assert (host / "scedit" / "one.safetensors").is_file()
    assert len(events(host, "plan", "one")) == 1


def test_a_later_node_that_fails_costs_no_training(pack, host, monkeypatch):
    """Queued again the host has the tuner; after a restart the run is found complete, and its tuner is the same."""
    graph = base_of(**trained(name="kept"), **{"11": node("TestFails", anything=("10", 0))})
    monkeypatch.setattr(graph_run.TestFails, "broken", True)
    by = graph_run.executor()
    assert graph_run.run(graph, ["11"], by) == "a node of another pack has failed"
    tuner = host / "scedit" / "kept.safetensors"
    before = {name: p.clone() for name, p in pack.core.load_tuner(tuner).named_parameters()}
    monkeypatch.setattr(graph_run.TestFails, "broken", False)
    assert graph_run.run(graph, ["11"], by) == ""
    assert len(events(host, "plan", "kept")) == 1
    assert graph_run.run(graph, ["11"], graph_run.executor()) == ""
    assert [plan["first_step"] for plan in events(host, "plan", "kept")] == [0, 2]
    after = dict(pack.core.load_tuner(tuner).named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
