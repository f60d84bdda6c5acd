"""Some four thousand hostile files, made by tests/fuzz: each loads correctly or ends in TunerFileError, cheaply.

They are loaded in a process of their own, so that a crash is seen and the memory is that of loading alone.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the cases need links, pipes and POSIX limits")

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"
SECONDS, MEMORY = 5.0, 200 * 2**20


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """For each case: group, path, outcome, what was said, seconds, peak memory above the start in bytes, file size."""
    folder = tmp_path_factory.mktemp("hostile")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    for script in ("make_cases.py", "load_cases.py"):
        command = [sys.executable, str(FUZZ / script), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(json.loads((folder / "cases.json").read_text()))
    found = []
    for group, path, *rest in rows:
        name = os.fsdecode(bytes.fromhex(path))
        try:
            size = os.path.getsize(name)
        except (OSError, ValueError):
            size = 0
        found.append((group, name, *rest, size))
    canary = (folder / "canary").exists()
    shutil.rmtree(folder)
    return found, canary


def test_there_are_enough_cases_of_every_kind(results):
    groups = collections.Counter(row[0] for row in results[0])
    assert sum(groups.values()) >= 2000
    assert len(groups) >= 25


def test_every_file_loads_or_is_refused_with_our_own_error(results):
    wrong = [(name, said) for _, name, outcome, said, *_ in results[0] if outcome not in ("loaded", "refused")]
    assert wrong == []


def test_good_files_load_and_lies_do_not(results):
    outcomes = collections.defaultdict(set)
    for group, _, outcome, *_ in results[0]:
        outcomes[group].add(outcome)
    assert outcomes["good"] == {"loaded"}
    for group in ("header-length", "header-content", "many-keys", "dtype", "not-finite", "missing", "code", "bomb"):
        assert outcomes[group] == {"refused"}, group


def test_no_code_was_executed(results):
    assert results[1] is False


def test_refusals_are_one_sentence(results):
    for _, name, outcome, said, *_ in results[0]:
        if outcome == "refused":
            assert "expected" in said
            assert "found" in said
            assert "\n" not in said
            assert len(said) <= 600 + 4 * len(name), said
            said.encode()  # can be printed


def test_nothing_takes_long(results):
    slow = [(name, seconds) for _, name, _, _, seconds, *_ in results[0] if seconds > SECONDS]
    assert slow == []


def test_nothing_fills_the_memory(results):
    """The peak is that of the whole run, so it is also an upper bound for each file."""
    large, before = [], 0
    for _, name, _, _, _, peak, size in results[0]:
        if peak > before and peak > 3 * size + MEMORY:
            large.append((name, size, peak))
        before = peak
    assert large == []
