"""Beside the packs that sample controls in windows: each frame follows its own hint, with them and after them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOST_ROOT, PACK_ROOT

PACKS = Path(os.environ.get("SCEDIT_TEST_PACKS", "~/comfy/packs")).expanduser()
NAMES = ("ComfyUI-Advanced-ControlNet", "ComfyUI-AnimateDiff-Evolved")


@pytest.fixture(scope="module")
def distances() -> dict[str, float]:
    """What packs_beside.py prints."""
    missing = [name for name in NAMES if not (PACKS / name).is_dir()]
    if missing:
        pytest.skip(f"PACKS NOT TESTED: {', '.join(missing)} not in {PACKS}; clone them there (github.com/Kosinkadink)")
    here = PACK_ROOT / "tests" / "host"
    environment = {**os.environ, "SCEDIT_TEST_HOST": str(HOST_ROOT)}
    done = subprocess.run(
        [sys.executable, here / "packs_beside.py", PACKS], capture_output=True, text=True, env=environment, cwd=here
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_each_frame_follows_its_own_hint(distances):
    far = {name: distance for name, distance in distances.items() if name.startswith("far")}
    assert len(far) == 1
    assert min(far.values()) > 0.02
    near = {name: distance for name, distance in distances.items() if name not in far}
    assert len(near) == 8
    assert {name: distance for name, distance in near.items() if not distance < 1e-4} == {}
