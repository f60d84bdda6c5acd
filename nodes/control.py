"""The CONTROL_NET route: a CSC-Tuner for the host's own Apply ControlNet nodes.

`get_control` gives no residuals of its own.  It appends an output-block patch to the patches of that one call, which
finds the other SCEdit edits there (see patch.py).  Strength, range, masks, areas and chaining come from the host.
"""

from __future__ import annotations

import copy
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.controlnet import ControlBase
from torch import Tensor

from .hints import RunCache, as_hint, batch_rows, encoded, latent_pixels, resized
from .managed import ManagedTuner
from .patch import ALWAYS, SkipPatch, check_fit, open_ends


class SCEditControl(ControlBase):
    """A CSC-Tuner as the host's CONTROL_NET."""

    def __init__(self, tuner: ManagedTuner) -> None:
        super().__init__()
        self.tuner = tuner
        self.cache = RunCache()
        self.sigmas = ALWAYS
        self.own_hint: Tensor | None = None  # what `_hint_for` made last; another `cond_hint` is a tiled sampler's
        # Set by packs that sample long batches in windows: which pictures of the whole this call is about.
        self.sub_idxs: list[int] | None = None
        self.full_latent_length = 0
        self.context_length = 0

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Start of a run.  Raises LayoutError where the tuner does not fit the model."""
        super().pre_run(model, percent_to_timestep_function)
        check_fit(model, self.tuner)
        self.sigmas = open_ends(*self.timestep_percent_range, percent_to_timestep_function)
        self.cond_hint = self.own_hint = None
        self.cache.clear()  # an exception in the last run skipped its cleanup

    def get_control(self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict):
        """What the controls before this one give; this one's edit goes into `transformer_options`."""
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if self.strength != 0:
            hint = _ControlHint(self, self._hint_for(x_noisy))
            patch = SkipPatch(self.tuner, self.strength, self.sigmas, hint=hint)
            patches = dict(transformer_options.get("patches", {}))  # lists of other calls stay as they are
            # A tiled sampler asks again for each batch of tiles, with the options of the batch before.
            others = [each for each in patches.get("output_block_patch", ()) if not self._made(each)]
            patches["output_block_patch"] = [*others, patch]
            transformer_options["patches"] = patches
        return previous

    def _made(self, patch: Any) -> bool:
        return isinstance(patch, SkipPatch) and isinstance(patch.hint, _ControlHint) and patch.hint.control is self

    def _hint_for(self, x_noisy: Tensor) -> Tensor:
        """The hint [N,3,8h,8w]: as a tiled sampler has put it into `cond_hint`, or fitted from the original."""
        size = latent_pixels(x_noisy.shape)
        if self.cond_hint is None or tuple(self.cond_hint.shape[-2:]) != size:
            original = self.cond_hint_original
            self.cond_hint = self.own_hint = self.cache.get(
                original,
                size,
                lambda: self.preprocess_image(resized(as_hint(original), *size, "crop", self.tuner)),
            )
        return self.cond_hint

    def get_models(self) -> list:
        """The modules that the host has to load, those of the controls before this one included."""
        return [*super().get_models(), self.tuner.patcher]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes that the hint features and the encoder's widest layers need beside the weights."""
        before = super().inference_memory_requirements(dtype)
        if self.cond_hint_original is None:
            return before
        layout, stem = self.tuner.tuner.layout, self.tuner.tuner.hint.stem[0].weight.shape[0]
        skips = sum(c / s**2 for c, s in zip(layout.channels, layout.strides, strict=True))
        batch, _, height, width = self.cond_hint_original.shape
        itemsize = 4 if dtype is None else dtype.itemsize
        return before + int(batch * height * width * (skips / 64 + 2 * stem) * itemsize)

    def cleanup(self) -> None:
        """End of a run: forget the hint and its features."""
        super().cleanup()
        self.own_hint = None
        self.cache.clear()

    def copy(self) -> SCEditControl:
        """Another control with the same weights and settings and a cache of its own."""
        c = SCEditControl(self.tuner)
        self.copy_to(c)
        c.sub_idxs = self.sub_idxs
        return c

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> SCEditControl:
        """A copy with weights of its own for another device."""
        c = self.copy()
        c.tuner = ManagedTuner(self.tuner.tuner, self.tuner.name, self.tuner.source)
        c.tuner.patcher = comfy.model_patcher.ModelPatcher(
            copy.deepcopy(self.tuner.module),
            load_device=load_device,
            offload_device=comfy.model_management.unet_offload_device(),
        )
        if autoregister:
            self.multigpu_clones[load_device] = c
        return c


class _ControlHint:
    """The hint of one call of a control."""

    def __init__(self, control: SCEditControl, hint: Tensor) -> None:
        self.control, self.hint = control, hint
        self.own = hint is control.own_hint

    def features(self, skip: Tensor, pictures: int, repeats: int, options: dict) -> list[Tensor | None]:
        """See patch.Hint."""
        if not self.own and self.hint.shape[0] == skip.shape[0]:  # a tiled sampler's, cut and repeated as the batch is
            rows, repeats = tuple(range(skip.shape[0])), 1
        else:
            rows = batch_rows(self.hint.shape[0], pictures, options, self.control.sub_idxs)
        return encoded(self.control.cache, self.control.tuner.module, self.hint, rows, repeats, skip)
