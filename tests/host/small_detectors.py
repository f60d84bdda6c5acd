"""Detectors with random weights, put where the condition nodes look for them: <root>/scedit_annotators/<name>."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import torch
from conftest import PACK_NAME, PACK_ROOT
from small_model import randomise


def install_hed(root: Path, seed: int = 1):
    """ControlNetHED.pth below `root`; gives the network."""
    core = importlib.import_module(f"{PACK_NAME}.scedit_core.conditions.hed")
    network = randomise(core.HED(), seed).eval().requires_grad_(False)
    folder = root / "scedit_annotators" / "hed"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "ControlNetHED.pth")
    return network


def install_model(kind: str, root: Path, name: str) -> Path:
    """A folder of transformers below `root`, of a kind that tests/unit/tiny_detectors.py knows; gives the folder."""
    place = PACK_ROOT / "tests" / "unit" / "tiny_detectors.py"
    spec = importlib.util.spec_from_file_location(place.stem, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.inference_mode(False):
        return module.save_detector(kind, root / "scedit_annotators" / name)
