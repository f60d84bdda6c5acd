"""The condition nodes through the host's server.  After test_server.py, which wants a log without failures."""

from __future__ import annotations

import io

import graphs
import numpy as np
import pytest
from host_server import error_of
from PIL import Image
from small_detectors import install_hed, install_model

INPUTS = {
    "SCEditCanny": {"low": 90, "high": 200, "blur": 0},
    "SCEditColorPalette": {"cell": 64},
    "SCEditCompletion": {"left": 0, "top": 0, "right": 0, "bottom": 0},
    "SCEditSoftEdge": {"polarity": "auto", "safe": False, "scribble": False},
    "SCEditDepth": {"detector": "dpt-hybrid-midas", "invert": False},
    "SCEditSegmentation": {"detector": "segformer-b0-ade", "labels_from_one": False},
    "SCEditPose": {
        "person_detector": "rtdetr-r50",
        "detector": "vitpose-base",
        "person_threshold": 0.0,
        "joint_threshold": 0.0,
        "hands": True,
    },
}


def run(server, name: str) -> dict:
    """The history of a graph that makes a condition of the photograph."""
    links = {"image": ["1", 0]} | ({"mask": ["1", 1]} if name == "SCEditCompletion" else {})
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": graphs.PHOTOGRAPH}},
        "2": {"class_type": name, "inputs": links | INPUTS[name]},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "condition"}},
    }
    prompt_id, answer = server.queue(graph)
    assert prompt_id, answer
    return server.wait(prompt_id)


@pytest.mark.parametrize(
    ("name", "detector"),
    [
        ("SCEditSoftEdge", "hed"),
        ("SCEditDepth", "dpt-hybrid-midas"),
        ("SCEditSegmentation", "segformer-b0-ade"),
        ("SCEditPose", "rtdetr-r50"),
    ],
)
def test_a_missing_detector_is_one_sentence(server, name, detector):
    message = error_of(run(server, name))
    assert f"models/scedit_annotators/{detector}" in message
    assert 0 < message.find("fetch it with the next line") < 120
    sentence, command = message.split("\n")
    assert sentence.count("models/") == 1
    assert command.endswith(f'scedit_annotators" --download {detector}')


def test_every_node_runs(server):
    install_hed(server.base / "models")
    install_model("dpt", server.base / "models", "dpt-hybrid-midas")
    install_model("segformer", server.base / "models", "segformer-b0-ade")
    install_model("rtdetr", server.base / "models", "rtdetr-r50")
    install_model("vitpose", server.base / "models", "vitpose-base")
    size = Image.open(server.base / "input" / graphs.PHOTOGRAPH).size
    for name in INPUTS:
        pictures = server.images(run(server, name))
        assert len(pictures) == 2, name  # the node's own preview, and what is saved
        for each in pictures:
            picture = Image.open(io.BytesIO(each))
            assert picture.size == size
            assert np.asarray(picture).std() > 1
