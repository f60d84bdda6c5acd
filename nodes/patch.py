"""The MODEL route: output-block patches that edit skips, all SCEdit edits of a forward as one sum.

The host calls the patches of its list one after another, so a second patch would read a skip that the first has edited.
The formula wants every residual to read the unedited skip.  So the first SCEdit patch in the list does the work of all
of them, and the others do nothing: the result does not depend on the order of the nodes.  A patch of another kind, such
as FreeU, is heard before the edits where it stands before the first SCEdit patch, and after them everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ..scedit_core import LayoutError, SkipLayout
from ..scedit_core.editing import Edit, edit_skip, is_active
from .hints import RunCache, as_hint, as_mask, batch_rows, encoded, latent_pixels, resized
from .managed import ManagedTuner

ALWAYS = (math.inf, -math.inf)
SIDES = ("both", "positive", "negative")
_EDITS = "scedit_edits"  # where the forward's edits wait in its transformer_options


class Hint(Protocol):
    """Gives hint features for one forward."""

    def features(self, skip: Tensor, pictures: int, repeats: int, options: dict) -> list[Tensor | None]:
        """Features for `repeats` times `pictures` rows, in dtype and on the device of `skip`."""


class SkipPatch:
    """One tuner at work on a host's model.

    tuner:         what the loader gave.
    strength:      multiplies the residual.
    sigmas:        (start, end); active where end < sigma <= start.
    block_weights: a factor for each block, 1 where None.
    mask:          [B,H,W] in 0..1 over the picture, or one that `as_mask` takes; multiplies the residual.
    side:          "both", "positive" or "negative": which rows of the batch are edited.
    hint:          for a CSC-Tuner, where its features come from.
    """

    def __init__(
        self,
        tuner: ManagedTuner,
        strength: float,
        sigmas: tuple[float, float] = ALWAYS,
        block_weights: Sequence[float] | None = None,
        mask: Tensor | None = None,
        side: str = "both",
        hint: Hint | None = None,
    ) -> None:
        self.tuner, self.strength, self.sigmas = tuner, strength, sigmas
        self.block_weights, self.side, self.hint = block_weights, side, hint
        self.mask = None if mask is None else as_mask(mask)
        self.tiled = False  # whether Tiled Diffusion cuts the picture up inside a forward
        self.percents: tuple[float, float] | None = None  # the range as fractions, where `sigmas` follow from the model
        self.cache = RunCache()

    def __call__(self, h: Tensor, hsp: Tensor | None, transformer_options: dict[str, Any]) -> tuple:
        """Called by the host for each output block with its skip `hsp` [B,C,h,w]; some models have none."""
        if hsp is None:
            return h, hsp
        listed = transformer_options.get("patches", {}).get("output_block_patch", ())
        patches = [patch for patch in listed if isinstance(patch, SkipPatch)] or [self]
        if patches[0] is not self:
            return h, hsp
        b = transformer_options["block"][1]
        if b == 0 or _EDITS not in transformer_options:  # block 0 comes first in every forward
            transformer_options[_EDITS] = _edits(patches, hsp, transformer_options)
        edits: list[Edit] = transformer_options[_EDITS]
        for edit in edits:
            _check_channels(edit, b, hsp)
        return h, edit_skip(b, hsp, edits)

    def edit(self, skip: Tensor, options: dict[str, Any], sigma: float | None) -> Edit | None:
        """This tuner's part in one forward, or None where its side or range has none."""
        if self.strength == 0 or (sigma is not None and not is_active(sigma, *self.sigmas)):
            return None
        calls = options.get("cond_or_uncond") or [0]
        if skip.shape[0] % len(calls):  # a pack that puts rows of its own into the batch
            calls = calls[:1]
        tiles = self._tiles(skip.shape[0] // len(calls), options)
        pictures, repeats, rows = skip.shape[0] // (tiles * len(calls)), tiles * len(calls), None
        if self.side != "both":
            wanted = SIDES.index(self.side) - 1  # the host numbers positive 0 and negative 1
            chosen = [i for i, call in enumerate(calls) if call == wanted]
            if not chosen:
                return None
            if len(chosen) < len(calls):
                every = torch.arange(skip.shape[0], device=skip.device).reshape(tiles, len(calls), pictures)
                rows = every[:, chosen].flatten()
                repeats = tiles * len(chosen)
        features = None if self.hint is None else self.hint.features(skip, pictures, repeats, options)
        return Edit(
            self.tuner.module,
            self.strength,
            hint_features=features,
            block_weights=self.block_weights,
            mask=self._mask_rows(skip.device, pictures, repeats, options),
            resize_hint=True,
            rows=rows,
        )

    def _tiles(self, rows: int, options: dict[str, Any]) -> int:
        """How many tiles stand one after another in the batch, each with all calls, when each call has `rows` rows.

        Tiled Diffusion tells patches nothing of it; the host's noise levels are still one for each picture.
        """
        pictures = options["sigmas"].numel() if self.tiled and "sigmas" in options else rows
        return 1 if rows % pictures else rows // pictures

    def _mask_rows(self, device: torch.device, pictures: int, repeats: int, options: dict[str, Any]) -> Tensor | None:
        if self.mask is None:
            return None
        rows = batch_rows(self.mask.shape[0], pictures, options)
        repeats = 1 if len(rows) == 1 else repeats

        def place() -> Tensor:
            return self.mask[list(rows)].repeat(repeats, 1, 1).to(device)

        return self.cache.get(self.mask, (rows, repeats, device), place)

    def models(self) -> list:
        """The modules that the host has to load for this patch."""
        return [self.tuner.patcher]

    def to(self, device_or_dtype: torch.device | torch.dtype) -> SkipPatch:
        """The patch itself: its weights move with their ModelPatcher, all else follows the skips."""
        return self

    def pre_run(self, model: Any) -> None:
        """Start of a run of a host's MODEL, whose noise schedule may be another than when the patch was made."""
        self.cleanup()  # an exception in the last run may have skipped it
        self.tiled = "tiled_diffusion" in model.model_options
        if self.percents is not None:
            self.sigmas = open_ends(*self.percents, model.get_model_object("model_sampling").percent_to_sigma)

    def cleanup(self, *_: Any) -> None:
        """End of a run: forget what was made for it."""
        self.cache.clear()
        if isinstance(self.hint, ImageHint):
            self.hint.cache.clear()

    def __deepcopy__(self, memo: dict) -> SkipPatch:
        return self  # hosts copy model options with each clone; weights and caches must not multiply


class ImageHint:
    """A hint image [B,H,W,C] of the host, fitted to the whole picture by `mode` (stretch, crop or pad)."""

    def __init__(self, tuner: ManagedTuner, image: Tensor, mode: str) -> None:
        self.tuner, self.mode = tuner, mode
        self.image = as_hint(image.movedim(-1, 1))
        self.cache = RunCache()

    def features(self, skip: Tensor, pictures: int, repeats: int, options: dict) -> list[Tensor | None]:
        """See Hint."""
        size = latent_pixels(options["original_shape"])
        hint = self.cache.get(self.image, size, lambda: resized(self.image, *size, self.mode, self.tuner))
        rows = batch_rows(hint.shape[0], pictures, options)
        return encoded(self.cache, self.tuner.module, hint, rows, repeats, skip)


def patched(model: Any, patch: SkipPatch, start: float, end: float) -> Any:
    """A clone of a host's MODEL with the patch in it, at work from `start` to `end` of the schedule, as fractions."""
    patch.percents = (start, end)
    patch.pre_run(model)
    clone = model.clone()
    clone.set_model_output_block_patch(patch)
    clone.add_callback(CallbacksMP.ON_PRE_RUN, patch.pre_run)
    clone.add_callback(CallbacksMP.ON_CLEANUP, patch.cleanup)  # v0.3.64 knows no cleanup of patches
    return clone


def layout_of(base_model: Any) -> SkipLayout:
    """The skips of a host's `BaseModel`.  Raises LayoutError for a model without output blocks."""
    config = getattr(getattr(base_model, "model_config", None), "unet_config", None) or {}
    layout = SkipLayout.from_host({"image_model": type(base_model).__name__, **config})
    if not hasattr(base_model.diffusion_model, "output_blocks"):
        raise LayoutError(
            f"model: expected a U-Net with output blocks, found {type(base_model).__name__}; "
            "SCEdit edits skip connections, so load an SD 1.5, SD 2.1 or SDXL checkpoint"
        )
    return layout


def check_fit(base_model: Any, tuner: ManagedTuner) -> SkipLayout:
    """The model's layout.  Raises LayoutError where `tuner` was not made for it."""
    layout = layout_of(base_model)
    reason = layout.mismatch(tuner.tuner.layout)
    if reason:
        raise LayoutError(f"{tuner.name}: {reason}; choose a tuner that was trained for this base model")
    return layout


def open_ends(start: float, end: float, percent_to_sigma: Any) -> tuple[float, float]:
    """(start, end) as noise levels for fractions of the schedule; 0 and 1 leave that end open."""
    first = math.inf if start <= 0 else float(percent_to_sigma(start))
    return first, -math.inf if end >= 1 else float(percent_to_sigma(end))


def _edits(patches: list[SkipPatch], skip: Tensor, options: dict[str, Any]) -> list[Edit]:
    """The edits of this forward, sorted so that not even rounding depends on the order of the nodes.

    The noise level is read off the device once, and only where a range asks for it.
    """
    ranged = "sigmas" in options and any(patch.sigmas != ALWAYS for patch in patches)
    sigma = float(options["sigmas"][0]) if ranged else None
    patches = sorted(patches, key=lambda patch: (patch.tuner.name, patch.strength, patch.sigmas, patch.side))
    return [edit for patch in patches if (edit := patch.edit(skip, options, sigma)) is not None]


def _check_channels(edit: Edit, b: int, skip: Tensor) -> None:
    channels = edit.tuner.layout.channels
    if b >= len(channels) or channels[b] != skip.shape[1]:
        expected = f"{channels[b]} channels" if b < len(channels) else "no such block"
        raise LayoutError(
            f"output block {b}: expected a skip with {expected}, found {skip.shape[1]} channels; "
            "choose a tuner that was trained for this base model"
        )
