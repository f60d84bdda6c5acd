"""A tuner in the hands of the host's memory manager: what the wires SC_TUNER and CONTROL_NET carry."""

from __future__ import annotations

from functools import cached_property

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch

from ..scedit_core import CSCTuner, SCTuner
from ..scedit_core.tuners import rebuilt

_COMPUTE_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class ManagedTuner:
    """A tuner as its file has it, and the host's ModelPatcher around the module that runs.

    tuner:  the weights in the file's dtype, on the CPU; what merging and saving read.
    name:   the file's name, for messages.
    source: where it came from, for the info node.

    The running module is built on first use, of layers that cast their weights to their input's dtype, in the dtype
    that the host would choose for a U-Net; weights that have it already are shared, not copied.
    """

    def __init__(self, tuner: SCTuner | CSCTuner, name: str, source: str) -> None:
        self.tuner, self.name, self.source = tuner, name, source

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
        return patcher(module, load_device=device, offload_device=offload)

    @property
    def module(self) -> SCTuner | CSCTuner:
        """The running module, on whatever device the host has it."""
        return self.patcher.model

    def __deepcopy__(self, memo: dict) -> ManagedTuner:
        return self  # hosts copy model options with everything in them
