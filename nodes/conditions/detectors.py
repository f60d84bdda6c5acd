"""Detectors in the hands of the host's memory manager."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from comfy.patcher_extension import CallbacksMP
from torch import nn

from ...scedit_core.conditions.annotators import annotator, installed_weights
from ..folders import ANNOTATORS, state_of

_PACK = Path(__file__).resolve().parents[2]


class ManagedDetector:
    """A detector with the host's ModelPatcher around it: the host moves it to its device, and away when it wants.

    state: what its file was when it was read.
    """

    def __init__(self, name: str, state: str, module: nn.Module) -> None:
        management = comfy.model_management
        self.name, self.state = name, state
        self.patcher = comfy.model_patcher.ModelPatcher(
            module, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
        )
        # The patcher thus refers to itself and outlives its unloading until the next garbage collection, as the host's
        # log line after an unloading needs.
        self.patcher.add_callback(CallbacksMP.ON_DETACH, self._detached)

    def _detached(self, patcher: comfy.model_patcher.ModelPatcher, unloaded: bool) -> None:
        if unloaded and _in_use.get(self.name) is self:
            del _in_use[self.name]


# The host keeps only weak references to what it has loaded.  An entry goes when the host unloads its detector, so that
# the memory, on the device and off it, is the host's to free.
_in_use: dict[str, ManagedDetector] = {}


def managed_detector(name: str, load: Callable[[Path], nn.Module]) -> ManagedDetector:
    """The installed detector of that name: the one that the host has, else, or where its file has changed, a new one.

    load: makes the module of a weight file.  Raises ConditionError where it is missing or damaged.
    """
    try:
        path = installed_weights(name, folder_paths.get_folder_paths(ANNOTATORS), _command(name))
    except Exception:
        _in_use.pop(name, None)
        raise
    state = f"{path} {state_of(path)}"
    if name not in _in_use or _in_use[name].state != state:
        _in_use.pop(name, None)  # its memory is free before the next one takes some
        _in_use[name] = ManagedDetector(name, state, load(path))
    return _in_use[name]


def _command(name: str) -> str:
    """What fetches a detector, called from anywhere."""
    folder = folder_paths.get_folder_paths(ANNOTATORS)[0]
    return f'"{sys.executable}" "{_PACK / "scedit_core"}" annotators --folder "{folder}" --download {name}'


def fingerprint(names: Iterable[str]) -> str:
    """Changes when a file of one of these detectors does, or one is installed or removed."""
    files = [
        path.parent / file
        for each in map(annotator, names)
        if (path := each.weight_file(folder_paths.get_folder_paths(ANNOTATORS)))
        for file in (path.name, *each.others)
    ]
    return " ".join(f"{file} {state_of(file)}" for file in files)


def loaded(working_bytes: int, *detectors: ManagedDetector) -> torch.device:
    """Have the host load them with `working_bytes` free beside them; gives the device that they are on."""
    patchers = [detector.patcher for detector in detectors]
    comfy.model_management.load_models_gpu(patchers, memory_required=working_bytes)
    return patchers[0].load_device
