"""What the registry serves: small, complete, and cheap to import."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import archive
import pytest
from conftest import HOST_ROOT, PACK_ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from tiny_training import write_tiny_training

HEAVY = ("cv2", "transformers", "diffusers")
# Imported where a configuration asks for them, and told as a sentence or a note where they are missing.
OPTIONAL = {"bitsandbytes", "prodigyopt", "tensorboard", "torchao", "wandb", "webdataset"}
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The archive, packed and unpacked again."""
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(archive.write_archive(folder / "node.zip")) as packed:
        packed.extractall(folder / "scedit")
    return folder / "scedit"


def requirement_names(path: Path) -> set[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {canonicalize_name(re.match(r"[\w.-]+", line).group()) for line in lines if line and line[0] != "-"}


def imported_modules(folder: Path) -> set[str]:
    """Top-level names that the Python files below `folder` import, wherever in the file."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
    return found


def test_archive_is_small_and_has_what_users_need(tmp_path):
    path = archive.write_archive(tmp_path / "node.zip")
    assert path.stat().st_size < 3 * MEBIBYTE
    names = zipfile.ZipFile(path).namelist()
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders.isdisjoint({"demo", "tests", "benchmarks", ".ci", "build"})
    assert {"nodes", "scedit_core", "training", "web", "workflows", "requirements"} <= folders
    for needed in ("__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "web/js/training.js"):
        assert needed in names
    assert "requirements/train-in-comfyui.txt" in names


def test_the_host_reads_the_metadata(unpacked):
    """By the host's own parser, as its manager does."""
    from comfy_config import config_parser

    found = config_parser.extract_node_configuration(str(unpacked))
    assert re.fullmatch(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*", found.project.name)
    assert re.fullmatch(r"\d+\.\d+\.\d+", found.project.version)
    assert f"## {found.project.version}" in (PACK_ROOT / "CHANGELOG.md").read_text()
    assert found.project.license.text == "Apache-2.0"
    assert {Requirement(line).name for line in found.project.dependencies} == requirement_names(
        PACK_ROOT / "requirements.txt"
    )
    assert found.project.supported_comfyui_version == ">=0.3.64"
    assert found.project.supported_os == ["OS Independent"]
    assert found.tool_comfy.publisher_id
    assert found.tool_comfy.display_name


@pytest.mark.parametrize(("key", "width", "height"), [("Icon", 400, 400), ("Banner", 21, 9)])
def test_icon_and_banner_are_in_the_repository(key, width, height):
    """A square of at most 400 pixels, and 21:9, as the registry asks."""
    text = (PACK_ROOT / "pyproject.toml").read_text()
    repository = re.search(r'^Repository = "https://github\.com/(.+)"$', text, re.MULTILINE).group(1)
    address = re.search(rf'^{key} = "(.+)"$', text, re.MULTILINE).group(1)
    path = address.removeprefix(f"https://raw.githubusercontent.com/{repository}/main/")
    with Image.open(PACK_ROOT / path) as picture:
        assert picture.width / picture.height == pytest.approx(width / height, abs=0.01)
        assert picture.height <= 450


def test_importing_the_pack_is_cheap(pack, unpacked):
    """From the archive, in a process of its own: all nodes are there, and nothing heavy was imported for them."""
    script = (
        "import sys, json, asyncio, conftest, pathlib\n"
        "import utils.extra_config, nodes, server\n"  # what the host has imported before packs
        f"heavy = {HEAVY!r}\n"
        "for name in [name for name in sys.modules if name.split('.')[0] in heavy]:\n"
        "    del sys.modules[name]\n"
        f"conftest.PACK_ROOT = pathlib.Path({str(unpacked)!r})\n"
        "pack = conftest.load_pack()\n"
        "found = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())\n"
        "ids = [node.GET_SCHEMA().node_id for node in found]\n"
        "print(json.dumps({'ids': ids, 'heavy': [name for name in heavy if name in sys.modules]}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=180, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["heavy"] == []
    assert set(said["ids"]) == set(pack.nodes)


@pytest.mark.skipif(os.environ.get("SCEDIT_TEST_PART") == "no server", reason="no host takes part")
def test_the_trainer_in_the_archive_trains(unpacked, tmp_path):
    """On a tiny random base, two steps, from the command line in the archive's folder."""
    write_tiny_training(tmp_path)
    config = {
        "base": str(tmp_path / "base"),
        "output": str(tmp_path / "style.safetensors"),
        "tuner": {"kind": "sc"},
        "data": {"folder": str(tmp_path / "pictures"), "resolution": 64},
        "loop": {"steps": 2, "batch": 1, "warmup": 0},
        "previews": {"every": 0},
        "validation": {"every": 0},
        "tensorboard": False,
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML too
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "training", "train", str(tmp_path / "config.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=unpacked,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "style.safetensors").stat().st_size > 10_000


def test_the_trainers_requirements_leave_the_hosts_alone():
    """What the trainer imports is the host's, the pack's, or named in train-in-comfyui.txt; torch is the host's."""
    added = requirement_names(PACK_ROOT / "requirements" / "train-in-comfyui.txt")
    host = requirement_names(HOST_ROOT / "requirements.txt")
    assert added.isdisjoint({"torch", "torchvision", "torchaudio", "numpy", "safetensors"})
    known = host | added | requirement_names(PACK_ROOT / "requirements.txt") | OPTIONAL
    distributions = packages_distributions()
    own = {"scedit_core", "training", "__future__"}
    wanted = (imported_modules(PACK_ROOT / "training") | imported_modules(PACK_ROOT / "scedit_core")) - own
    unnamed = {
        module: distributions.get(module)
        for module in wanted - sys.stdlib_module_names
        if module not in OPTIONAL
        and module != "cv2"  # any of OpenCV's four packages
        and not {canonicalize_name(name) for name in distributions.get(module, ())} & known
    }
    assert unnamed == {}
