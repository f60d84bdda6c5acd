"""The condition nodes in workflows that the host validates and executes in this process, where it needs no server."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import shutil
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import numpy as np
import pytest
from conftest import PACK_NAME
from PIL import Image
from small_detectors import install_hed, install_model

WIDGETS = {
    "SCEditCanny": {"low": 100.0, "high": 200.0, "blur": 0.0},
    "SCEditColorPalette": {"cell": 64},
    "SCEditCompletion": {"left": 0, "top": 0, "right": 0, "bottom": 0},
    "SCEditSoftEdge": {"polarity": "auto", "safe": False, "scribble": False},
    "SCEditDepth": {"detector": "dpt-hybrid-midas", "invert": False},
    "SCEditSegmentation": {"detector": "segformer-b0-ade"},
    "SCEditPose": {
        "person_detector": "rtdetr-r50",
        "detector": "vitpose-base",
        "person_threshold": 0.0,
        "joint_threshold": 0.0,
        "hands": True,
    },
}
# What each asks for, in this order, where nothing is installed.
DETECTORS = {
    "SCEditSoftEdge": (("hed", install_hed),),
    "SCEditDepth": (("dpt-hybrid-midas", lambda root: install_model("dpt", root, "dpt-hybrid-midas")),),
    "SCEditSegmentation": (("segformer-b0-ade", lambda root: install_model("segformer", root, "segformer-b0-ade")),),
    "SCEditPose": (
        ("rtdetr-r50", lambda root: install_model("rtdetr", root, "rtdetr-r50")),
        ("vitpose-base", lambda root: install_model("vitpose", root, "vitpose-base")),
    ),
}


@pytest.fixture
def run(pack, models_folder, tmp_path, monkeypatch):
    """Queue a graph of one node on a photograph with alpha: its picture, or the error's sentence."""
    execution, host_nodes = importlib.import_module("execution"), importlib.import_module("nodes")
    monkeypatch.setattr(host_nodes, "NODE_CLASS_MAPPINGS", host_nodes.NODE_CLASS_MAPPINGS | pack.nodes)
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 4), np.uint8)
    picture[20:40, 30:60, 3] = 0
    Image.fromarray(picture).save(tmp_path / "input" / "picture.png")
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *message: None)
    newer = "cache_args" in inspect.signature(execution.PromptExecutor).parameters
    options = {"cache_args": {"lru": 0, "ram": 0, "ram_inactive": 0}} if newer else {}
    executor = execution.PromptExecutor(server, **options)

    def queue(name: str) -> np.ndarray | str:
        links = {"image": ["1", 0]} | ({"mask": ["1", 1]} if name == "SCEditCompletion" else {})
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}},
            "2": {"class_type": name, "inputs": WIDGETS[name] | links},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": name}},
        }
        valid, error, outputs, errors = asyncio.run(execution.validate_prompt("test", graph, None))
        assert valid, (error, errors)
        executor.execute(graph, "test", {}, outputs)
        if not executor.success:
            return next(data["exception_message"] for event, data in executor.status_messages if "error" in event)
        saved = executor.history_result["outputs"]["3"]["images"][0]
        return np.asarray(Image.open(tmp_path / "output" / saved["filename"]))

    yield queue
    comfy.model_management.unload_all_models()
    shutil.rmtree(models_folder / "scedit_annotators", ignore_errors=True)


@pytest.mark.parametrize("name", WIDGETS)
def test_each_node_in_a_workflow(run, models_folder, name):
    for detector, install in DETECTORS.get(name, ()):
        message = run(name)
        assert isinstance(message, str), f"it ran without {detector}"
        assert f"models/scedit_annotators/{detector}" in message
        assert "found none; fetch it with the next line, or take" in message
        assert message.strip().split("\n")[1].endswith(f"--download {detector}")
        install(models_folder)
    found = run(name)
    assert not isinstance(found, str), found
    assert found.shape == (70, 90, 3)
    assert found.std() > 1


def test_another_detector_in_its_place_is_used(run, models_folder):
    """The host keeps what a node gave as long as nothing of it has changed."""
    install_hed(models_folder)
    first = run("SCEditSoftEdge")
    assert np.array_equal(run("SCEditSoftEdge"), first)
    install_hed(models_folder, seed=2)
    assert not np.array_equal(run("SCEditSoftEdge"), first)


def test_the_pack_under_test_is_the_one_that_runs(pack, run):
    assert pack.nodes["SCEditCanny"].__module__ == f"{PACK_NAME}.nodes.conditions.pixels"
    assert run("SCEditCanny").max() == 255
