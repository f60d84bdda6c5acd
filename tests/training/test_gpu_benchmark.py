"""benchmarks/gpu.py: what it does where there is no GPU, and what it writes of parts that end well or badly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).resolve().parents[2]


def _script(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


def test_dry_run_does_every_script_once(tmp_path):
    done = _script("--dry-run", "--no-host", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table, _, _ = done.stdout.partition(f"{gpu.PARTS[0].name}: ")
    tried = [part.name for part in gpu.PARTS if part.tiny]  # the others differ from these by their options alone
    assert {part.script for part in gpu.PARTS} == {part.script for part in gpu.PARTS if part.tiny}
    assert all(name in table for name in tried)  # what it will do comes first
    told = json.loads((tmp_path / "dry_run.json").read_text())
    assert told["machine"]["torch"]
    assert list(told["parts"]) == tried
    hostless = {part.name for part in gpu.PARTS if part.on_host}
    for name, part in told["parts"].items():
        assert part["state"] == ("left out" if name in hostless else "done"), (name, part)
        assert part["reason"] if name in hostless else part["report"], name
    rows = told["parts"]["training SD 1.5"]["report"]["rows"]
    assert {row["model"] for row in rows} == {"sd15", "sdxl"}
    assert all(row["steps_per_second"]["1"] > 0 for row in rows)
    plot = tmp_path / "dry_run_training_SD_1_5.png"
    assert plot.read_bytes().startswith(b"\x89PNG")
    plot.unlink()
    before = {name: part.get("seconds") for name, part in told["parts"].items()}
    again = _script("--dry-run", "--no-host", "--out", tmp_path)
    assert again.stdout.count("done before") == len(tried) - len(hostless & set(tried))
    parts = json.loads((tmp_path / "dry_run.json").read_text())["parts"]
    assert {name: part.get("seconds") for name, part in parts.items()} == before
    assert plot.exists()  # drawn from the JSON


def test_all_parts_fit_into_nine_minutes_as_expected():
    assert sum(part.seconds for part in gpu.PARTS) <= 540


def test_without_a_gpu_it_says_so(tmp_path):
    done = _script("--out", tmp_path, "--no-host", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "expected a GPU that torch can use, found none" in done.stdout
    assert not list(tmp_path.iterdir())


def test_another_folder_than_a_checkout_is_refused(tmp_path):
    done = _script("--dry-run", "--host", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert f"expected a ComfyUI checkout, found none in {tmp_path}" in done.stderr


@pytest.mark.parametrize(
    ("script", "limit", "state", "reason"),
    [
        ("raise ValueError('too little of it')", 60, "failed", "ValueError: too little of it"),
        ("pass", 60, "failed", "exit status 0, and no report"),
        ("import time; time.sleep(60)", 1, "cut short", "stopped after 1 s"),
    ],
)
def test_the_reason_of_a_bad_end_is_told(tmp_path, monkeypatch, script, limit, state, reason):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "part.py").write_text(script)
    monkeypatch.setattr(gpu, "PACK", tmp_path)
    part = gpu.Part("a part", "nothing", "part", "", "", 1)
    told = gpu._run(part, [], dict(os.environ), limit)
    assert (told["state"], told["reason"]) == (state, reason)


def test_a_part_that_is_cut_short_hands_over_its_rows(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "part.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as the scripts do
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    pathlib.Path(sys.argv[-1]).write_text('{\"rows\": [1]}')\n"
    )
    monkeypatch.setattr(gpu, "PACK", tmp_path)
    told = gpu._run(gpu.Part("a part", "nothing", "part", "", "", 1), [], dict(os.environ), 3)
    assert told["state"] == "cut short"
    assert told["report"] == {"rows": [1]}


def test_a_changed_or_unfinished_part_is_done_again(tmp_path):
    part = gpu.PARTS[0]
    report = gpu.Report(tmp_path / "card.json", {"torch": "1"})
    report.tell(part, state="done", arguments=["--steps", "5"])
    read = gpu.Report(tmp_path / "card.json", {"torch": "1"})
    assert read.done(part, ["--steps", "5"])
    assert not read.done(part, ["--steps", "6"])
    assert not gpu.Report(tmp_path / "card.json", {"torch": "2"}).done(part, ["--steps", "5"])
    report.tell(part, state="cut short", arguments=["--steps", "5"], reason="time")
    assert not gpu.Report(tmp_path / "card.json", {"torch": "1"}).done(part, ["--steps", "5"])


def test_wheels_are_the_versions_that_training_pins():
    pins = (ROOT / "requirements" / "train.txt").read_text()
    shared = [line for line in gpu.pinned().values() if re.search(rf"^{line.split('==')[0]}==", pins, re.MULTILINE)]
    assert len(shared) >= 4
    for line in shared:
        assert re.search(rf"^{re.escape(line)}\b", pins, re.MULTILINE), line


def test_each_way_to_be_faster_is_tried_beside_the_plain_one():
    """Compiled, channels-last and CUDA graphs: one part each, of the same methods and savings as an eager part."""
    trained = {part.name: part.arguments for part in gpu.PARTS if part.script == "training"}
    for option in ("--compile ", "--compile cudagraphs", "--channels-last"):
        parts = [arguments for arguments in trained.values() if option in arguments]
        assert parts, option
        assert all("--methods SC-Tuner 'LoRA r64'" in arguments for arguments in parts)
    eager = trained["training SD 1.5"]
    assert "--compile" not in eager
    assert "--savings 'frozen layers'" in eager
