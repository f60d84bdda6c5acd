"""Every template: what is saved, what its note says, and how it runs.

After test_server_conditions.py, which wants detectors to be missing at first.
"""

from __future__ import annotations

import copy
import json
import re
import shutil

import demo_files
import graphs
import numpy as np
import pytest
from conftest import PACK_ROOT
from PIL import Image
from saved_workflow import made_small, picture_of, saved_graph
from small_detectors import install_hed, install_model
from template_files import DISTILLING, TRAINING, on_sd15, with_loaders

WORKFLOWS = sorted((PACK_ROOT / "workflows").glob("*.json"))
HOSTS_OWN = {"comfy_extras", "nodes"}
SIZES = {"sc_two_pass_upscale_sd15": (128, 128), "csc_completion_sd15": (64, 128)}
TRAINED = (
    "sc_train_in_graph_sdxl",
    "csc_train_in_graph_sdxl",
    "csc_distil_canny_sd15",
)  # really, for two steps, on the model of SD 1.5
TWICE = ("sc_tuner_sd15", "csc_canny_sdxl", "merge_and_save_sd15")


@pytest.fixture(scope="module")
def object_info(server) -> dict:
    return server.get("/object_info")


@pytest.fixture(scope="module")
def few_pictures(server) -> None:
    """The folder of `made_small`: encoding all that the style has takes longer than two steps on them."""
    folder = server.base / "input" / "few"
    folder.mkdir()
    for file in sorted((PACK_ROOT / "demo" / "style").iterdir())[:6]:  # three, with their captions
        shutil.copy(file, folder)


@pytest.fixture(scope="module")
def detectors(server) -> None:
    """Random detectors under the names that the templates choose."""
    models = server.base / "models"
    install_hed(models)
    install_model("dpt", models, graphs.MIDAS.name)
    install_model("rtdetr", models, graphs.PEOPLE.name)
    install_model("vitpose", models, graphs.JOINTS.name)


def test_every_graph_is_saved_and_every_saved_one_is_a_graph(object_info):
    """The saved files have the links and values of the graphs that they were made from."""
    assert set(WORKFLOWS) == {graphs.template(stem) for stem in graphs.WORKFLOWS}
    for stem, workflow in graphs.WORKFLOWS.items():
        saved, expected = saved_graph(stem, object_info), workflow.graph()
        assert set(saved) == set(expected)
        for node, each in expected.items():
            assert saved[node]["class_type"] == each["class_type"]
            assert each["inputs"].items() <= saved[node]["inputs"].items(), f"{stem}: node {node}"
        with Image.open(graphs.template(stem).with_suffix(".jpg")) as picture:
            assert picture.size == (460, 460)


def test_pages_offer_every_file_and_open_at_a_readable_zoom():
    for stem in graphs.WORKFLOWS:
        saved = json.loads(graphs.template(stem).read_text("utf-8"))
        offered = [each for node in saved["nodes"] for each in node["properties"].get("models", ())]
        wanted = [file for file in graphs.files(stem) if file.url]
        assert {each["name"] for each in offered} == {file.name for file in wanted}, stem
        for file in wanted:
            assert {"name": file.name, "url": file.url, "directory": file.folder} in offered, stem
        assert saved["extra"]["ds"]["scale"] >= 0.8


def test_names_are_what_comes_out_and_are_found_by_the_pack():
    names = [each.name for each in graphs.WORKFLOWS.values()]
    assert names == sorted(names)
    for stem, each in graphs.WORKFLOWS.items():
        assert re.fullmatch(r"SCEdit \d\d [A-Z][a-z].* \((SD 1\.5|SD 2\.1|SDXL)\)", each.name), stem


def test_no_template_needs_another_pack(object_info, pack):
    for workflow in graphs.WORKFLOWS.values():
        for each in workflow.graph().values():
            module = object_info[each["class_type"]]["python_module"]
            assert each["class_type"] in pack.nodes or module.split(".")[0] in HOSTS_OWN, each["class_type"]


def test_notes_name_every_file_with_its_place_and_source():
    for stem, workflow in graphs.WORKFLOWS.items():
        note, values = graphs.note(stem), values_of(workflow.graph())
        files = graphs.files(stem)
        named = {value for value in values if value.endswith((".safetensors", ".bin"))}
        assert named == {file.name for file in files if file.kind != "detector"}, stem
        for file in files:
            assert f"`models/{file.folder}/{file.name}`: {file.what}; {file.source}" in note
            assert file.kind == "detector" or file.url.startswith(("https://huggingface.co/", "https://modelscope.cn/"))
            assert file.kind == "detector" or file.url.endswith(file.name)
            assert file.kind != "detector" or file.name in {*values, "hed"}, stem


def values_of(graph: dict) -> list[str]:
    """The texts of a graph's widgets."""
    return [value for each in graph.values() for value in each["inputs"].values() if isinstance(value, str)]


@pytest.mark.parametrize("stem", graphs.WORKFLOWS)
def test_templates_run(server, object_info, detectors, few_pictures, stem):
    """Those of SD 1.5 as they are but small; others with the files of SD 1.5; a tuner in place of its training."""
    graph = made_small(saved_graph(stem, object_info))
    demo_files.place_training(server.base)
    trains = any(each["class_type"] in (TRAINING, DISTILLING) for each in graph.values())
    if trains and stem not in TRAINED:
        graph = with_loaders(graph)
    if graphs.WORKFLOWS[stem].family != "sd15":
        graph = on_sd15(graph)
    first = picture_of(server, graph)
    assert first.shape == (*SIZES.get(stem, (64, 64)), 3)
    assert first.std() > 1
    if stem in TWICE:
        second = picture_of(server, made_small(graph, seed=2))
        assert np.abs(second.astype(int) - first).mean() > 1  # another seed, another picture
    off = copy.deepcopy(graph)
    for each in off.values():
        if each["class_type"] != "ControlNetApplyAdvanced" or uses_scedit(off, each):
            each["inputs"] |= {"strength": 0.0} if "strength" in each["inputs"] else {}
    base = picture_of(server, off)
    assert np.abs(first.astype(int) - base).mean() > 0.5  # the tuner was heard


@pytest.mark.parametrize("stem", [s for s, each in graphs.WORKFLOWS.items() if each.family != "sd15"])
def test_templates_of_other_families_are_accepted(server, object_info, stem):
    """As they are: all types, links and values are right.  They fail then, since their checkpoints are empty files."""
    prompt_id, answer = server.queue(saved_graph(stem, object_info))
    assert prompt_id, answer
    assert answer["node_errors"] == {}
    assert server.wait(prompt_id)["status"]["status_str"] == "error"


def uses_scedit(graph: dict, apply: dict) -> bool:
    """Whether an Apply ControlNet node applies a CSC-Tuner."""
    return graph[apply["inputs"]["control_net"][0]]["class_type"].startswith("SCEdit")


def test_a_merged_tuner_was_saved(server, object_info, detectors):
    """After the run of its template: the file is there and loads in a graph of its own."""
    graph = made_small(saved_graph("sc_tuner_sd15", object_info))
    graph["10"]["inputs"]["tuner_name"] = "pixel_watercolor.safetensors"
    merged = made_small(saved_graph("merge_and_save_sd15", object_info))
    one, other = picture_of(server, graph).astype(int), picture_of(server, merged)
    assert np.abs(one - other).mean() < 2  # float16 in the file
