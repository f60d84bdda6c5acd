"""`check` passes on the examples of the authors' trainings, with a small base and small pictures in their place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scedit_core.conditions.annotators import names_for
from training import __main__ as command

EXAMPLES = sorted((Path(__file__).parents[2] / "training" / "examples").glob("authors_*.yaml"))


def test_there_are_six():
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_check_passes(path, base_folder, pictures_folder, tmp_path, capsys):
    values = yaml.safe_load(path.read_text("utf-8"))
    values |= {"base": str(base_folder), "output": str(tmp_path / "tuner.safetensors")}
    values["data"] |= {"folder": str(pictures_folder), "resolution": 64}
    values["loop"]["precision"] = "fp32"  # of a GPU
    detector = values["data"].pop("annotators", None) is not None
    if detector:  # is no part of this repository: edges stand in for what it sees
        assert names_for(values["data"]["condition"]["type"])
        values["data"]["condition"] = {"type": "canny"}
    file = tmp_path / path.name
    file.write_text(yaml.safe_dump(values), "utf-8")
    assert command.main(["check", str(file)]) == 0
    assert "an update" in capsys.readouterr().out
