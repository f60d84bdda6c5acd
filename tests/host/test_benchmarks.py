"""The benchmarks that need a host run on this one, as benchmarks/gpu.py calls them, at a tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import HOST_ROOT, PACK_ROOT

pytestmark = pytest.mark.skipif(
    os.environ.get("SCEDIT_TEST_PART") == "no server", reason="figures are of the newest host"
)
_PARTS = ["sampling SD 1.5", "parity in ComfyUI", "training on the MODEL"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What a dry run of the parts that need a host tells."""
    out = tmp_path_factory.mktemp("dry")
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--host", HOST_ROOT, "--out", out, "--parts"]
    environment = {**os.environ, "PYTHONPATH": ""}
    run = {"cwd": PACK_ROOT, "capture_output": True, "text": True, "env": environment}
    done = subprocess.run([*map(str, command), *_PARTS], **run)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "dry_run.json").read_text())["parts"]


def test_sampling_is_measured_on_the_host(parts):
    report = parts["sampling SD 1.5"]["report"]
    assert report["backend"].startswith("ComfyUI ")
    rows = {row["variant"]: row for row in report["models"]["sd15"]["rows"]}
    assert list(rows) == ["base", "SC-Tuner", "CSC-Tuner", "ControlNet-LLLite", "ControlNet"]
    assert rows["base"]["flops"] == 1.0 < rows["SC-Tuner"]["flops"] < rows["ControlNet"]["flops"]
    assert 1.0 < rows["ControlNet-LLLite"]["flops"] < rows["ControlNet"]["flops"]


def test_what_cannot_be_compared_without_a_gpu_says_so(parts):
    rows = {(row["what"], row["path"]): row for row in parts["parity in ComfyUI"]["report"]["rows"]}
    assert rows["all", "float32, dynamic VRAM"]["agrees"] is None
    assert rows["CSC-Tuner", "float16"]["agrees"] is True
    assert float(rows["CSC-Tuner", "float16"]["error"]) > 0  # another dtype did compute it


def test_training_on_the_model_is_measured_beside_train_lora(parts):
    rows = {row["method"]: row for row in parts["training on the MODEL"]["report"]["rows"]}
    assert rows.keys() == {"scedit", "lora"}
    assert all(row["steps_per_second"] > 0 for row in rows.values())
