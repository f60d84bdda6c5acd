"""The benchmark of sampling runs on this host, as benchmarks/gpu.py calls it, at a tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import HOST_ROOT, PACK_ROOT


def _report(tmp_path, part: str) -> dict:
    command = [sys.executable, PACK_ROOT / "benchmarks" / "gpu.py", "--dry-run", "--host", HOST_ROOT]
    command += ["--parts", part, "--out", tmp_path]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "dry_run.json").read_text())["parts"][part]
    assert told["state"] == "done", told
    return told["report"]


def test_sampling_is_measured_on_the_host(tmp_path):
    report = _report(tmp_path, "sampling SD 1.5")
    assert report["backend"].startswith("ComfyUI ")
    rows = {row["variant"]: row for row in report["models"]["sd15"]["rows"]}
    assert {"base", "SC-Tuner", "CSC-Tuner", "ControlNet"} <= rows.keys()
    assert rows["base"]["flops"] == 1.0 < rows["SC-Tuner"]["flops"] < rows["ControlNet"]["flops"]


_OLD = 'version__ = "0.3.' in (HOST_ROOT / "comfyui_version.py").read_text()


@pytest.mark.skipif(_OLD, reason="this host's Train LoRA takes other inputs")
def test_training_on_the_model_is_measured_beside_train_lora(tmp_path):
    rows = {row["method"]: row for row in _report(tmp_path, "training on the MODEL")["rows"]}
    assert rows.keys() == {"scedit", "lora"}
    assert all(row["steps_per_second"] > 0 for row in rows.values())
