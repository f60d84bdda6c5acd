"""The benchmark of sampling runs on this host, as benchmarks/gpu.py calls it, at a tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from conftest import HOST_ROOT, PACK_ROOT


def test_sampling_is_measured_on_the_host(tmp_path):
    command = [sys.executable, PACK_ROOT / "benchmarks" / "gpu.py", "--dry-run", "--host", HOST_ROOT]
    command += ["--parts", "sampling SD 1.5", "--out", tmp_path]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "dry_run.json").read_text())["parts"]["sampling SD 1.5"]["report"]
    assert report["backend"].startswith("ComfyUI ")
    rows = {row["variant"]: row for row in report["models"]["sd15"]["rows"]}
    assert {"base", "SC-Tuner", "CSC-Tuner", "ControlNet"} <= rows.keys()
    assert rows["base"]["flops"] == 1.0 < rows["SC-Tuner"]["flops"] < rows["ControlNet"]["flops"]
