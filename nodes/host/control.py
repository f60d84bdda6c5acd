"""The CONTROL_NET route: a CSC-Tuner for the host's own Apply ControlNet nodes.

`get_control` gives no residuals of its own.  It puts its edit among the patches of that one call, where `edit_forward`
finds it together with the others.  Strength, range, masks, areas and chaining come from the host.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy.controlnet import ControlBase
from torch import Tensor

from .forward import wrapped
from .hints import Hint, batch_rows, latent_pixels, resized
from .managed import ManagedTuner
from .patch import SkipPatch, check_fit
from .run import Picture, Run

# Set by packs that sample long batches in windows: which pictures of the whole a call is about.  They refuse controls
# without these, or take every control that has them for their own: so they are there while a run lasts, and no longer.
_WINDOW = {"sub_idxs": None, "full_latent_length": 0, "context_length": 0}


class SCEditControl(ControlBase):
    """A CSC-Tuner as the host's CONTROL_NET."""

    def __init__(self, tuner: ManagedTuner) -> None:
        super().__init__()
        self.tuner, self.run = tuner, Run()

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Start of a run.  Raises LayoutError where the tuner does not fit the model."""
        super().pre_run(model, percent_to_timestep_function)
        check_fit(model, self.tuner)
        self.cond_hint = None
        vars(self).update(_WINDOW)
        self.run.begin(percent_to_timestep_function)
        patcher = getattr(model, "current_patcher", None)
        if patcher is not None:
            self.run.end_with(patcher)

    def get_control(self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict):
        """What the controls before this one give; this one's edit goes into `transformer_options`."""
        before = self.previous_controlnet
        previous = before and before.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if self.strength != 0:
            hint = _ControlHint(self, x_noisy.shape)
            patch = SkipPatch(self.tuner, self.strength, self.timestep_percent_range, hint=hint, run=self.run)
            patches = dict(transformer_options.get("patches", {}))  # lists of other calls stay as they are
            # A tiled sampler asks again for each batch of tiles, with the options of the batch before.
            others = [p for p in patches.get("output_block_patch", ()) if getattr(p, "run", None) is not self.run]
            patches["output_block_patch"] = [*others, patch]
            transformer_options["patches"] = patches
            transformer_options["wrappers"] = wrapped(transformer_options.get("wrappers", {}))
        return previous

    def get_models(self) -> list:
        """The modules that the host has to load, those of the controls before this one included."""
        return [*super().get_models(), self.tuner.patcher]

    def cleanup(self) -> None:
        """End of a run: forget the hint and what was made of it."""
        super().cleanup()
        self.run.end()
        for name in _WINDOW:
            vars(self).pop(name, None)

    def copy(self) -> SCEditControl:
        """Another control with the same weights and settings."""
        c = SCEditControl(self.tuner)
        self.copy_to(c)
        return c

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> SCEditControl:
        """A copy that works on another device."""
        c = self.copy()
        c.tuner = ManagedTuner(self.tuner.tuner, self.tuner.name, self.tuner.source, self.tuner.mapped, load_device)
        if autoregister:
            self.multigpu_clones[load_device] = c
        return c


class _ControlHint(Hint):
    """The hint of one call of a control: the original, or what a tiled sampler has put into `cond_hint`."""

    def __init__(self, control: SCEditControl, latents: torch.Size) -> None:
        given = control.cond_hint
        self.given = given is not None and tuple(given.shape[-2:]) == latent_pixels(latents)
        super().__init__(control.tuner, given if self.given else control.cond_hint_original)
        self.control = control

    def rows(self, picture: Picture) -> tuple[int, ...]:
        """See Hint."""
        rows = picture.pictures * len(picture.calls) * picture.tiles
        if self.given and len(self.image) == rows:  # cut and repeated as the batch is
            return tuple(range(rows))
        return batch_rows(len(self.image), picture.pictures, picture.options, getattr(self.control, "sub_idxs", None))

    def fitted(self, row: int, size: tuple[int, int]) -> Tensor:
        """See Hint."""
        if self.given:
            return resized(self.image[row : row + 1], *latent_pixels(size), "stretch", self.tuner)
        return self.control.preprocess_image(super().fitted(row, size))
