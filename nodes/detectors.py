"""Detectors in the hands of the host's memory manager, and the folder that they are loaded from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from torch import nn

from ..scedit_core.conditions.annotators import FOLDER, installed_weights
from ..scedit_core.weight_files import SUFFIXES


class ManagedDetector:
    """A detector with the host's ModelPatcher around it: the host moves it to its device, and away when it wants."""

    def __init__(self, module: nn.Module) -> None:
        management = comfy.model_management
        self.patcher = comfy.model_patcher.ModelPatcher(
            module, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
        )

    def loaded(self, working_bytes: int) -> tuple[nn.Module, torch.device]:
        """The module on the device it runs on, where `working_bytes` are free beside it."""
        comfy.model_management.load_models_gpu([self.patcher], memory_required=working_bytes)
        return self.patcher.model, self.patcher.load_device


# The last detector of each name, with the state of its file: graphs that run again do not load it again.
_loaded: dict[str, tuple[tuple, ManagedDetector]] = {}


def managed_detector(name: str, load: Callable[[Path], nn.Module]) -> ManagedDetector:
    """The installed detector of that name, loaded once for as long as its file stays what it is.

    load: makes the module of a weight file.  Raises ConditionError where it is missing or damaged.
    """
    try:
        path = installed_weights(name, folder_paths.get_folder_paths(FOLDER))
    except Exception:
        _loaded.pop(name, None)
        raise
    state = os.stat(path)
    key = (path, state.st_mtime_ns, state.st_size, state.st_ino)
    if name not in _loaded or _loaded[name][0] != key:
        _loaded.pop(name, None)  # its memory is free before the next one takes some
        _loaded[name] = (key, ManagedDetector(load(path)))
    return _loaded[name][1]


def register() -> None:
    """Make models/scedit_annotators known to the host, beside what extra_model_paths added."""
    default = os.path.join(folder_paths.models_dir, FOLDER)
    folder_paths.add_model_folder_path(FOLDER, default)
    paths, endings = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(endings) | set(SUFFIXES))
    with contextlib.suppress(OSError):  # a read-only installation keeps its files elsewhere
        os.makedirs(default, exist_ok=True)


register()
