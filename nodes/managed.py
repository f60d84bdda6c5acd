"""A tuner in the hands of the host's memory manager: what the wires SC_TUNER and CONTROL_NET carry."""

from __future__ import annotations

import sys
from functools import cached_property

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch

from ..scedit_core import CSCTuner, SCTuner, SkipLayout, TunerFileError, load_tuner
from ..scedit_core.tuners import rebuilt

_COMPUTE_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class ManagedTuner:
    """A tuner as its file has it, and the host's ModelPatcher around the module that runs.

    tuner:  the weights in the file's dtype, on the CPU; what merging and saving read.
    name:   the file's name, for messages.
    source: where it came from, for the info node.
    mapped: whether the weights are a map of a file, as `load_tuner` gives them.

    The running module is built on first use, of layers that cast their weights to their input's dtype, in the dtype
    that the host would choose for a U-Net.
    """

    def __init__(self, tuner: SCTuner | CSCTuner, name: str, source: str, mapped: bool = True) -> None:
        self.tuner, self.name, self.source = tuner, name, source
        self.mapped = mapped and sys.platform != "win32"
        if mapped and not self.mapped:  # Windows would not let the file be replaced while the host keeps this
            for p in tuner.parameters():
                p.data = p.data.clone()

    @cached_property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """The ModelPatcher of the running module; one for all nodes that use this tuner."""
        management = comfy.model_management
        device, offload = management.get_torch_device(), management.unet_offload_device()
        size = sum(p.numel() for p in self.tuner.parameters())
        dtype = management.unet_dtype(device=device, model_params=size, weight_dtype=self.tuner.dtype)
        if dtype not in _COMPUTE_DTYPES:  # a host told to keep U-Nets in fp8
            dtype = torch.float16
        module = rebuilt(self.tuner, comfy.ops.manual_cast, dtype).to(offload)
        # Looked up at each use: hosts with dynamic VRAM put another class there when they start.
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        patcher = patcher(module, load_device=device, offload_device=offload)
        if self.mapped and not (hasattr(patcher, "is_dynamic") and patcher.is_dynamic()):
            self._leave_the_file(module)
        return patcher

    def _leave_the_file(self, module: SCTuner | CSCTuner) -> None:
        """Copy what still is a map of the file: a file cut short while the host samples would end the whole server.

        Hosts with dynamic VRAM keep maps of their own, and load weights out of them piece by piece.
        """
        source = dict(self.tuner.named_parameters())
        for name, p in module.named_parameters():
            if p.data_ptr() == source[name].data_ptr():
                p.data = p.data.clone()

    @property
    def module(self) -> SCTuner | CSCTuner:
        """The running module, on whatever device the host has it."""
        return self.patcher.model

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
        return ManagedTuner(load_tuner(self.source, layout=layout), self.name, self.source)

    @property
    def tuner(self) -> SCTuner:
        """Raises TunerFileError: merging, saving and the info node need the layout as well."""
        raise TunerFileError(self.sentence)
