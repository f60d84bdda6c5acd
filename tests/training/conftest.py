from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # tests import what they share by its name

_spec = importlib.util.spec_from_file_location("tiny_base", Path(__file__).with_name("tiny_base.py"))
tiny_base = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_base)

LONGEST = ("test_resume", "test_verdict", "test_demo", "test_gpu_benchmark")  # up to minutes each


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="session")
def tiny():
    """The module that writes tiny bases and pictures."""
    return tiny_base


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    return tiny_base.write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def pictures_folder(tmp_path_factory) -> Path:
    return tiny_base.write_drawn_pictures(tmp_path_factory.mktemp("pictures") / "set")


@pytest.fixture
def values(base_folder, pictures_folder, tmp_path) -> dict:
    """A valid configuration of a two-step run."""
    return {
        "base": str(base_folder),
        "output": str(tmp_path / "out" / "tuner.safetensors"),
        "tuner": {"kind": "sc"},
        "data": {"folder": str(pictures_folder), "resolution": 64},
        "loop": {"steps": 2, "batch": 2, "warmup": 0, "precision": "fp32"},
    }


@pytest.fixture
def unwatched(values) -> None:
    """`values` without what looks on: pictures take longer than the training in most tests."""
    values |= {"previews": {"every": 0}, "validation": {"every": 0}, "tensorboard": False}


@pytest.fixture
def control_values(values) -> dict:
    values["tuner"] = {"kind": "csc", "stem_width": 32}
    values["data"]["condition"] = {"type": "canny"}
    return values
