"""The training node on the real server and its page: click, preview, closed, reopened, cancelled, resumed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import chromium
import graphs
import pytest
from host_server import error_of
from tiny_training import write_tiny_training

SCRIPT = Path(chromium.__file__).with_name("test_train_node.mjs")


@pytest.fixture(scope="module")
def graph(server) -> dict:
    """The training node with what its tuner is told to, for a tiny base in the host's input folder."""
    write_tiny_training(server.base / "input" / "tiny")
    widgets = {"folder": "tiny/pictures", "name": "lantern", "kind": "style", "preset": "fast", "resolution": 64}
    widgets |= {"ckpt_name": graphs.CHECKPOINTS["sd15"], "steps": 4000, "config_file": "tiny/quick.yaml"}
    widgets |= {"caption": "", "low_memory": False, "resume": True}
    return {
        "1": {"class_type": "SCEditTrainTuner", "inputs": widgets},
        "2": {"class_type": "SCEditTunerInfo", "inputs": {"tuner": ["1", 0]}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }


@pytest.mark.timeout(1500)  # three starts of the trainer, and pages, on machines of any speed
def test_from_click_to_preview_to_cancel_to_resume(server, graph, tmp_path):
    try:
        environment = {**os.environ, **chromium.requirements()}
    except chromium.NoBrowser as reason:
        pytest.skip(f"PAGE NOT TESTED in a browser: {reason}")
    (tmp_path / "task.json").write_text(json.dumps({"graph": graph, "pictures": str(tmp_path)}))
    command = ["node", str(SCRIPT), server.url, str(tmp_path / "task.json"), str(tmp_path / "result.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert "error" not in result, result
    assert not result["before"]["visible"]
    for moment in ("running", "reopened"):
        assert result[moment]["text"].startswith("step ")
        assert "loss" in result[moment]["text"]
        assert result[moment]["picture"]
    assert "queue again to resume" in result["stopped"]["text"]
    assert result["finished"]["text"] == f"finished after {result['steps']} steps"
    assert "scedit_training" not in result["saved"], "the panel must not be in the saved workflow"
    assert [p for p in result["problems"] if "scedit" in p.lower()] == []
    assert (server.base / "models" / "scedit" / "lantern.safetensors").is_file()
    assert server.get("/scedit/training")[-1]["state"] == "finished"


def test_what_the_node_makes_goes_on_in_the_graph(server, graph):
    """Trained through the API; the text after it describes the tuner; what is wired to the other output does not run.

    What that output says is told to the page alone; test_train_node.py reads it.
    """
    small = json.loads(json.dumps(graph))
    small["1"]["inputs"] |= {"steps": 3, "name": "small"}
    prompt_id, answer = server.queue(small)
    assert prompt_id, answer
    entry = server.wait(prompt_id)
    assert entry["status"]["status_str"] == "success", error_of(entry)
    assert any("kind: SC-Tuner" in str(output) for output in entry["outputs"].values())
    small["2"]["inputs"]["tuner"] = ["1", 1]
    prompt_id, _ = server.queue(small)
    assert not {"2", "3"} & set(server.wait(prompt_id)["outputs"])


def test_the_trainers_sentence_reaches_the_page(server, graph):
    small = json.loads(json.dumps(graph))
    small["1"]["inputs"] |= {"folder": "tiny/base", "name": "nothing"}
    prompt_id, _ = server.queue(small)
    message = error_of(server.wait(prompt_id))
    assert "expected images" in message
    assert "\n" not in message
    shown = {each["name"]: each for each in server.get("/scedit/training")}
    assert shown["nothing"]["state"] == "failed"
    assert shown["nothing"]["text"] == message
