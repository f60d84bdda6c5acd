"""Training on the MODEL as a graph on the real server: real pictures, the embedded base, the tuner at work after it."""

from __future__ import annotations

import demo_files
import help_graphs
import pytest
from saved_workflow import picture_of

NAME = "lantern_on_model"  # other tests on this server train a lantern too


@pytest.fixture
def graph(server) -> dict:
    """The help's graph, four steps long."""
    demo_files.place_training(server.base)
    graph = help_graphs.train_on_model()
    graph["10"]["inputs"] |= {"name": NAME, "steps": 4, "batch": 1, "preview_every": 4}
    graph["5"]["inputs"]["steps"] = 2
    return graph


def test_a_folder_of_pictures_becomes_a_tuner_and_a_picture(server, graph):
    picture = picture_of(server, graph)
    assert picture.std() > 1
    assert (server.base / "models" / "scedit" / f"{NAME}.safetensors").is_file()
    run = server.base / "output" / "scedit" / NAME
    assert (run / "report.html").is_file()
    assert (run / "previews" / "step-000004.jpg").is_file()
    (shown,) = [each for each in server.get("/scedit/training") if each["name"] == NAME]
    assert (shown["state"], shown["step"], shown["steps"]) == ("finished", 4, 4)
    plain = dict(graph)
    plain["11"] = {**graph["11"], "inputs": {**graph["11"]["inputs"], "strength": 0.0}}
    assert abs(picture.astype(int) - picture_of(server, plain)).mean() > 0
