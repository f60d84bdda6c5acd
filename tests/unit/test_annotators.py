"""Detectors: what is installed, the sentence for what is missing, and the command that lists and fetches them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scedit_core.__main__ import main
from scedit_core.conditions.annotators import ANNOTATORS, default_folder, installed_weights
from scedit_core.errors import ConditionError


def install(root: Path, name: str, weights: int = 0) -> Path:
    """Empty files where those of a detector would lie; the path of its weights."""
    wanted = ANNOTATORS[name]
    (root / name).mkdir(parents=True)
    for file in (wanted.weights[weights], *wanted.others):
        (root / name / file).touch()
    return root / name / wanted.weights[weights]


@pytest.mark.parametrize("name", ANNOTATORS)
def test_installed_ones_are_found_in_any_folder(tmp_path, name):
    for i in range(len(ANNOTATORS[name].weights)):
        root = tmp_path / f"models {i}"
        path = install(root, name, i)
        assert installed_weights(name, [tmp_path / "elsewhere", root]) == path
        for other in ANNOTATORS[name].others:
            (root / name / other).unlink()
            with pytest.raises(ConditionError):
                installed_weights(name, [root])


@pytest.mark.parametrize("name", ANNOTATORS)
def test_a_missing_one_says_what_goes_where(tmp_path, name, one_sentence):
    wanted = ANNOTATORS[name]
    with pytest.raises(ConditionError) as raised:
        installed_weights(name, [tmp_path, tmp_path / "second"])
    said = (str(tmp_path / name), *wanted.weights, *wanted.others, f"{wanted.megabytes} MB", wanted.licence)
    one_sentence(raised, *said, wanted.repository)


def test_unknown_names(tmp_path, one_sentence):
    with pytest.raises(ConditionError) as raised:
        installed_weights("crystal ball", [tmp_path])
    one_sentence(raised, "crystal ball", "hed")


def test_the_command_runs_where_python_knows_no_folder(tmp_path):
    """As Python's embedded builds for Windows do: -I leaves the current folder out of its path."""
    folder = Path(__file__).resolve().parents[2] / "scedit_core"
    command = [sys.executable, "-I", str(folder), "annotators", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("missing") == len(ANNOTATORS)


def test_the_command_lists_installed_and_missing(tmp_path, capsys):
    assert main(["annotators", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("missing") == len(ANNOTATORS)
    install(tmp_path, "hed")
    assert main(["annotators", "--folder", str(tmp_path)]) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if "installed" in line]
    assert len(listed) == 1
    assert listed[0].startswith("hed")
    assert "ControlNetHED.pth" in listed[0]


def test_a_download_that_fails_is_one_sentence(tmp_path, capsys, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["annotators", "--folder", str(tmp_path), "--download", "hed"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "lllyasviel/Annotators" in said
    assert main(["annotators", "--folder", str(tmp_path), "--download", "nothing"]) == 2


def test_the_default_folder_is_the_hosts_or_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    above = Path(__file__).resolve().parents[3]
    if above.name == "custom_nodes":
        assert default_folder() == above.parent / "models" / "scedit_annotators"
    else:
        assert default_folder() == tmp_path / "models" / "scedit_annotators"
