"""The real server: what it says of the nodes, files that change, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import graphs
import numpy as np
import pytest
from checkpoint import random_tuner
from host_server import error_of
from saved_workflow import made_small, picture_of, saved_graph
from template_files import CANNY, on_sd15

SNAPSHOT = Path(__file__).with_name("object_info.json")
FAILURES = ("IMPORT FAILED", "Traceback", "ComfyUI-SCEdit: ")


@pytest.fixture(scope="module")
def object_info(server) -> dict:
    return server.get("/object_info")


def contract(object_info: dict, pack) -> dict:
    """What saved workflows and scripts depend on: ids, inputs with type, default and bounds, outputs."""
    found = {}
    for name in sorted(pack.nodes):
        info = object_info[name]
        inputs = {}
        for group in ("required", "optional"):
            for each, spec in info["input"].get(group, {}).items():
                kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
                if each in ("tuner_name", "ckpt_name", "start_from"):
                    kind, options["options"] = "COMBO", "files"
                kept = {k: options[k] for k in ("default", "min", "max", "step", "options") if k in options}
                inputs[each] = {"group": group, "type": kind, **kept}
        outputs = [list(pair) for pair in zip(info["output"], info["output_name"], strict=True)]
        found[name] = {"category": info["category"], "inputs": inputs, "outputs": outputs}
    return found


def test_the_log_has_no_failure(server, object_info, pack):
    log = server.log.read_text()
    for failure in FAILURES:
        assert failure not in log
    assert "ComfyUI-SCEdit" in log
    assert set(pack.nodes) <= set(object_info)


def test_nodes_are_as_saved_workflows_expect_them(object_info, pack):
    """object_info.json is the compatibility contract: delete it and run this test to write a new one."""
    found = contract(object_info, pack)
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"wrote {SNAPSHOT.name}; look at what changed and run again")
    expected = json.loads(SNAPSHOT.read_text())
    assert {name: found[name] for name in expected} == expected
    assert set(found) == set(expected)


def test_the_page_is_served_templates_help_and_translations(server, pack):
    """At the addresses where it looks.  A top folder named examples would be served in place of workflows."""
    templates = server.get("/workflow_templates")["ComfyUI-SCEdit"]
    assert set(templates) == {each.name for each in graphs.WORKFLOWS.values()}
    for name in map(quote, templates):
        assert json.loads(server.fetch(f"/api/workflow_templates/ComfyUI-SCEdit/{name}.json"))["nodes"]
        assert server.fetch(f"/api/workflow_templates/ComfyUI-SCEdit/{name}.jpg")[:2] == b"\xff\xd8"
    for node in pack.nodes:
        page = server.fetch(f"/extensions/ComfyUI-SCEdit/docs/{node}.md").decode()
        picture = page.split("](assets/")[1].split(")")[0]
        assert server.fetch(f"/extensions/ComfyUI-SCEdit/docs/assets/{picture}")[:2] == b"\xff\xd8"
    translations = server.get("/i18n")
    for language in ("en", "zh"):
        assert set(pack.nodes) <= set(translations[language]["nodeDefs"])


def test_files_added_while_the_server_runs_are_listed(server):
    """What pressing R in the page asks for."""
    (server.base / "models" / "scedit" / "new").mkdir()
    (server.base / "models" / "scedit" / "new" / "added.safetensors").touch()
    for node in ("SCEditLoadSCTuner", "SCEditLoadCSCTuner"):
        assert "new/added.safetensors" in json.dumps(server.get(f"/object_info/{node}"))


def test_a_changed_file_is_read_again_by_the_same_graph(server, object_info, pack):
    graph = made_small(saved_graph("sc_tuner_sd15", object_info), seed=3)
    graph["10"]["inputs"]["tuner_name"] = "changing.safetensors"
    path = random_tuner(pack, server.base / "models" / "scedit" / "changing.safetensors", "sc", 49)
    first = picture_of(server, graph)
    random_tuner(pack, path, "sc", 50)
    second = picture_of(server, graph)
    assert np.abs(second.astype(int) - first).mean() > 0.5


@pytest.mark.parametrize(
    ("stem", "node", "changes", "sentence"),
    [
        ("sc_tuner_sd15", "10", {"tuner_name": CANNY}, "load it with Load CSC-Tuner"),
        ("csc_canny_sdxl", "30", {"tuner_name": graphs.PIXEL_ART["sd15"].name}, "load it with Load SC-Tuner"),
        ("sc_tuner_sd15", "10", {"tuner_name": "depth.safetensors"}, "expected a whole tuner file"),
        ("csc_canny_on_model_sdxl", "32", {"preset": "custom", "weights": "1, 1"}, "expected 12 numbers"),
    ],
    ids=["csc-as-sc", "sc-as-csc", "empty-file", "block-weights"],
)
def test_bad_input_is_one_sentence_and_the_server_goes_on(server, object_info, stem, node, changes, sentence):
    graph = made_small(on_sd15(saved_graph(stem, object_info)))
    graph[node]["inputs"] |= changes
    prompt_id, answer = server.queue(graph)
    assert prompt_id, answer
    message = error_of(server.wait(prompt_id))
    assert sentence in message
    assert "\n" not in message
    assert server.get("/system_stats")["system"]
