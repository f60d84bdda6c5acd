"""Distilling as a graph on the real server: a ControlNet's file, a preprocessor's hints, the student at work."""

from __future__ import annotations

import sys
from pathlib import Path

import comfy.cldm.cldm
import comfy.ops
import help_graphs
import pytest
import safetensors
import safetensors.torch
from graph_parts import node
from saved_workflow import picture_of
from small_model import randomise
from train_on_model_widgets import WIDGETS

sys.path.append(str(Path(__file__).parent / "demo_nodes"))
import embedded_base


@pytest.fixture
def graph(server) -> dict:
    """A ControlNet of random weights for the embedded base, in the place of which a student of four updates is used."""
    config = embedded_base.unet_config() | {"hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    del config["out_channels"], config["transformer_depth_output"]
    state = randomise(comfy.cldm.cldm.ControlNet(**config), 11).state_dict()
    path = server.base / "models" / "controlnet" / "random.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: weight.clone() for name, weight in state.items()}, path)
    graph = help_graphs.csc_tuner()
    graph["40"] = node("VAEEncode", pixels=("20", 0), vae=("8", 0))
    graph["41"] = node("ControlNetLoader", control_net_name=path.name)
    widgets = {key: value for key, value in WIDGETS.items() if key != "kind"}
    widgets |= {"name": "student", "condition": "edges", "batch": 1, "residuals": 2, "predictions": 1}
    graph["42"] = node(
        "SCEditDistillControlNet",
        model=("1", 0),
        control_net=("41", 0),
        hints=("21", 0),
        latents=("40", 0),
        positive=("2", 0),
        vae=("8", 0),
        **widgets | {"preview_every": 4},
    )
    graph["31"]["inputs"]["control_net"] = ["42", 0]
    del graph["30"]
    graph["5"]["inputs"]["steps"] = 2
    return graph


def test_a_controlnets_file_becomes_a_student_and_a_picture(server, graph):
    picture = picture_of(server, graph)
    assert picture.std() > 1
    with safetensors.safe_open(server.base / "models" / "scedit" / "student.safetensors", "pt") as file:
        assert '"name": "random.safetensors"' in file.metadata()["scedit.teacher"]
    run = server.base / "output" / "scedit" / "student"
    assert (run / "previews" / "step-000004.jpg").is_file()
    assert "without the tuner, with the ControlNet, with it" in (run / "report.html").read_text("utf-8")
    (shown,) = [each for each in server.get("/scedit/training") if each["name"] == "student"]
    assert (shown["state"], shown["step"]) == ("finished", 4)
