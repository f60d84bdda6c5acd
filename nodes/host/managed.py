"""A tuner in the hands of the host's memory manager: what the wires SC_TUNER and CONTROL_NET carry."""

from __future__ import annotations

import sys
import weakref
from functools import cached_property, partial
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from ...scedit_core import CSCTuner, SCTuner, SkipLayout, TunerFileError, load_tuner
from ...scedit_core.tuners import HintEncoder, own_memory, rebuilt

if TYPE_CHECKING:
    from .run import Run

_COMPUTE_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class ManagedTuner:
    """A tuner as its file has it, and the host's ModelPatcher that stands for it on a device.

    tuner:  the weights in the file's dtype, on the CPU; what runs fold, and what merging and saving read.
    name:   the file's name, for messages.
    source: where it came from, for the info node.
    mapped: whether the weights are a map of a file, as `load_tuner` gives them.
    device: what it runs on, by default the host's first.

    A run folds the adapters of its tuners into weights of its own (run.py), so that no second copy of them lies on the
    device: the patcher holds the hint encoder alone, of layers that cast their weights to their input's dtype, in the
    dtype that the host would choose for a U-Net.  Its size, which the host makes room for, is that of the whole tuner.
    """

    def __init__(
        self,
        tuner: SCTuner | CSCTuner,
        name: str,
        source: str,
        mapped: bool = True,
        device: torch.device | None = None,
    ) -> None:
        self.tuner, self.name, self.source, self._device = tuner, name, source, device
        self.mapped = mapped and sys.platform != "win32"
        self.runs: weakref.WeakSet[Run] = weakref.WeakSet()  # those that hold something made of this tuner
        if mapped and not self.mapped:  # Windows would not let the file be replaced while the host keeps this
            own_memory(tuner)

    @cached_property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """The ModelPatcher; one for all nodes that use this tuner."""
        management = comfy.model_management
        device, offload = self._device or management.get_torch_device(), management.unet_offload_device()
        size = sum(p.numel() for p in self.tuner.parameters())
        dtype = management.unet_dtype(device=device, model_params=size, weight_dtype=self.tuner.dtype)
        if dtype not in _COMPUTE_DTYPES:  # a host told to keep U-Nets in fp8
            dtype = torch.float16
        if self.mapped:  # a file cut short while the host samples would end the whole server
            own_memory(self.tuner)
        kind, module = comfy.model_patcher.ModelPatcher, nn.Module()
        if isinstance(self.tuner, CSCTuner):
            module = rebuilt(self.tuner, comfy.ops.manual_cast, dtype).hint.to(offload)
            # Looked up at each use: hosts with dynamic VRAM put another class there when they start.
            kind = getattr(comfy.model_patcher, "CoreModelPatcher", kind)
        patcher = kind(module, load_device=device, offload_device=offload)
        patcher.size = size * dtype.itemsize
        patcher.add_callback(CallbacksMP.ON_DETACH, partial(_give_back, self.runs))
        return patcher

    @property
    def encoder(self) -> HintEncoder:
        """A CSC-Tuner's running hint encoder, on whatever device the host has it."""
        return self.patcher.model

    def encode(self, hint: Tensor) -> list[Tensor | None]:
        """See CSCTuner.encode_hint; where the host has the encoder."""
        return self.tuner.encode_hint(hint, self.encoder)

    def __deepcopy__(self, memo: dict) -> ManagedTuner:
        return self  # hosts copy model options with everything in them


class UnplacedTuner:
    """A tuner file that does not tell its U-Net, which the MODEL that it is applied to does.

    sentence: what is said where there is no such model.
    """

    def __init__(self, name: str, path: str, sentence: str) -> None:
        self.name, self.source, self.sentence = name, path, sentence

    def placed(self, layout: SkipLayout) -> ManagedTuner:
        """The tuner on the U-Net with this layout.  Raises TunerFileError where it does not fit."""
        return ManagedTuner(no_control(load_tuner(self.source, layout=layout), self.name), self.name, self.source)

    @property
    def tuner(self) -> SCTuner:
        """Raises TunerFileError: merging, saving and the info node need the layout as well."""
        raise TunerFileError(self.sentence)


def no_control(tuner: SCTuner | CSCTuner, name: str) -> SCTuner:
    """The tuner.  Raises TunerFileError where it is no SC-Tuner."""
    if isinstance(tuner, SCTuner):
        return tuner
    raise TunerFileError(
        f"{name}: expected an SC-Tuner, found a control tuner (CSC-Tuner); load it with Load CSC-Tuner"
    )


def make_room(nbytes: int, device: torch.device) -> None:
    """Have the host free `nbytes` on a device, beside the models in use, which stay."""
    management = comfy.model_management
    in_use = [loaded for loaded in management.current_loaded_models if loaded.currently_used]
    management.free_memory(nbytes + management.minimum_inference_memory(), device, keep_loaded=in_use)


def _give_back(runs: weakref.WeakSet, patcher: comfy.model_patcher.ModelPatcher, unloaded: bool) -> None:
    """The host has unloaded a tuner: what runs have made of it goes too."""
    if unloaded:
        for run in list(runs):
            run.drop()
