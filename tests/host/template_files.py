"""The files that the SD 1.5 templates name, with random weights, and other templates made to use them.

A template of another family runs with these in place of its own files; its nodes, links and widgets stay as they are.
"""

from __future__ import annotations

import copy
from pathlib import Path

import comfy.cldm.cldm
import comfy.ops
import graphs
import safetensors.torch
import torch
from checkpoint import UNET, Noise, random_checkpoint, random_tuner
from model_files import CHECKPOINTS, CONTROLNET_CANNY, CONTROLNET_DEPTH, ModelFile

TRAINING, DISTILLING = "SCEditTrainOnModel", "SCEditDistillControlNet"
CANNY = "sd15_canny.safetensors"  # no template's: none is released for SD 1.5
_LOADERS = {
    "CheckpointLoaderSimple": ("ckpt_name", CHECKPOINTS["sd15"].name),
    "SCEditLoadSCTuner": ("tuner_name", graphs.PIXEL_ART["sd15"].name),
    "SCEditLoadCSCTuner": ("tuner_name", CANNY),
}


def write_random_files(pack, models: Path) -> None:
    """Write them below `models`, over the empty ones that may be there."""
    random_checkpoint(models / "checkpoints" / CHECKPOINTS["sd15"].name)
    controlnet = random_controlnet(models / "controlnet" / CONTROLNET_DEPTH.name, 1)
    for each in CONTROLNET_CANNY.values():
        other = controlnet.with_name(each.name)
        other.unlink(missing_ok=True)
        other.hardlink_to(controlnet)
    wanted = {file for each in graphs.WORKFLOWS.values() if each.family == "sd15" for file in each.files}
    wanted -= set(CONTROLNET_CANNY.values())
    for seed, file in enumerate(sorted(wanted, key=lambda file: file.name), start=2):
        _tuner(pack, file, models / file.folder / file.name, seed)
    random_tuner(pack, models / "scedit" / CANNY, "csc", 1, kernel=1)


def _tuner(pack, file: ModelFile, path: Path, seed: int) -> None:
    """A tuner in the format of its place: the pack's own, or for a style of the release that of SWIFT."""
    if path.suffix == ".safetensors":
        random_tuner(pack, path, file.kind, seed, **({"kernel": 1} if file.kind == "csc" else {}))
        return
    own = random_tuner(pack, path.with_name("own_format.safetensors"), file.kind, seed)
    path.unlink(missing_ok=True)
    pack.core.converting.convert_tuner(own, path, "swift")
    own.unlink()


def random_controlnet(path: Path, seed: int) -> Path:
    """Write a ControlNet of the true SD 1.5 shape, 0.7 GB in float16."""
    config = {key: value for key, value in UNET.items() if key not in ("out_channels", "transformer_depth_output")}
    with torch.device("meta"):
        network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    noise = Noise(seed, torch.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({k: noise.like(k, v.shape) for k, v in network.state_dict().items()}, path)
    return path


def on_sd15(graph: dict) -> dict:
    """The graph with the files of SD 1.5 in its loaders."""
    graph = copy.deepcopy(graph)
    for each in graph.values():
        if each["class_type"] in _LOADERS:
            widget, name = _LOADERS[each["class_type"]]
            each["inputs"][widget] = name
    return graph


def with_loaders(graph: dict) -> dict:
    """The graph with a loader in place of a training, and the files of SD 1.5 in all of them."""
    graph = copy.deepcopy(graph)
    for each in graph.values():
        if each["class_type"] in (TRAINING, DISTILLING):
            kind = "SCEditLoadSCTuner" if each["inputs"].get("kind") == "style" else "SCEditLoadCSCTuner"
            each |= {"class_type": kind, "inputs": {}}
        for name, value in each["inputs"].items():
            if isinstance(value, list) and graph[value[0]]["class_type"] in (TRAINING, "SCEditLoadCSCTuner"):
                each["inputs"][name] = [value[0], 0]  # the only output of a loader
    return on_sd15(graph)
