"""The MODEL route: what a node asks of one tuner, as a patch on a clone of the MODEL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ...scedit_core import LayoutError, SkipLayout
from ...scedit_core.block_weights import BlockWeights
from ...scedit_core.editing import Edit
from ...scedit_core.hints import Features, as_mask, digest
from .hints import Hint, batch_rows
from .managed import ManagedTuner
from .run import Picture, Run

log = logging.getLogger(__name__)

SIDES = ("both", "positive", "negative")
# What ComfyUI calls models that have the sizes of SD 1.5 or 2.1 and make something else than pictures of a text.
_KIN = {"SVD_img2vid", "SV3D_u", "SV3D_p", "Stable_Zero123", "LotusD"}


class SkipPatch:
    """One tuner at work on a host's model: what is wanted of it.  forward.py does it.

    tuner:         what the loader gave.
    strength:      multiplies the residual.
    percents:      from where to where in the schedule, as fractions from 0 to 1.
    block_weights: a factor for each block, 1 where None.
    mask:          [B,H,W] in 0..1 over the picture, or one that `as_mask` takes; multiplies the residual.
    side:          "both", "positive" or "negative": which rows of the batch are edited.
    hint:          for a CSC-Tuner, where its features come from.
    run:           what the run keeps, shared by all patches of a MODEL.
    """

    def __init__(
        self,
        tuner: ManagedTuner,
        strength: float,
        percents: tuple[float, float] = (0.0, 1.0),
        block_weights: Sequence[float] | None = None,
        mask: Tensor | None = None,
        side: str = "both",
        hint: Hint | None = None,
        run: Run | None = None,
    ) -> None:
        self.tuner, self.strength, self.percents, self.block_weights = tuner, strength, percents, block_weights
        self.call = None if side == SIDES[0] else SIDES.index(side) - 1  # the host numbers positive 0 and negative 1
        self.mask = None if mask is None else as_mask(mask)
        self.hint, self.run = hint, run or Run()

    def weights(self) -> tuple[float, ...]:
        """What the residual of each block is multiplied with."""
        return Edit(self.tuner.tuner, self.strength, block_weights=self.block_weights).weights()

    def sources(self, picture: Picture) -> tuple:
        """What, beside the weights, tells this edit of a forward from others."""
        hint = self.hint and (id(self.hint.source), self.hint.rows(picture))
        return hint, None if self.mask is None else (id(self.mask), self._mask_rows(picture))

    def edit(self, picture: Picture, places: Tensor | None, like: Tensor) -> Edit:
        """The edit of one forward at those rows of the batch, for skips like `like`."""
        held, hint, features = self.tuner, self.hint, None
        if hint is not None:
            fitted, rows = partial(hint.fitted, size=picture.size), hint.rows(picture)
            features = Features(held.name, held.encode, self.weights(), fitted, rows, like)
        mask = None if self.mask is None else self.mask[list(self._mask_rows(picture))]
        return Edit(held.tuner, self.strength, features, self.block_weights, mask, True, places)

    def shown(self) -> tuple[bytes, bytes]:
        """Tells apart patches of the same tuner and settings by what their masks and hints show."""
        return digest(self.mask), digest(self.hint and self.hint.source)

    def _mask_rows(self, picture: Picture) -> tuple[int, ...]:
        return batch_rows(len(self.mask), picture.pictures, picture.options)

    def __call__(self, h: Tensor, hsp: Tensor | None, transformer_options: dict[str, Any]) -> tuple:
        """For a pack that calls the U-Net without its wrappers: as `Forward` does, made anew for each block."""
        from .forward import Forward

        listed = transformer_options["patches"]["output_block_patch"]
        if next(patch for patch in listed if isinstance(patch, SkipPatch)) is not self:
            return h, hsp
        shape = torch.Size(transformer_options["original_shape"])
        return Forward.of(listed, torch.empty(shape, device="meta"), transformer_options)(h, hsp, transformer_options)

    def models(self) -> list:
        """The modules that the host has to load for this patch."""
        return [self.tuner.patcher]

    def to(self, device_or_dtype: torch.device | torch.dtype) -> SkipPatch:
        """The patch itself: what it makes follows the skips."""
        return self

    def __deepcopy__(self, memo: dict) -> SkipPatch:
        return self  # hosts copy model options with each clone; weights must not multiply


def applied(
    model: Any, tuner: ManagedTuner, strength: float, percents: tuple[float, float], block_weights: BlockWeights | None,
    mask: Tensor | None, side: str = SIDES[0], hint: Hint | None = None,
) -> Any:  # fmt: skip
    """A clone of a host's MODEL with the tuner in it (see SkipPatch), at strength 0 the MODEL itself.

    Raises LayoutError where the tuner does not fit.
    """
    layout = check_fit(model.model, tuner)
    weights = None if block_weights is None else block_weights.for_blocks(len(layout))
    return model if strength == 0 else patched(model, SkipPatch(tuner, strength, percents, weights, mask, side, hint))


def patched(model: Any, patch: SkipPatch) -> Any:
    """A clone of a host's MODEL with the patch in it."""
    from .forward import KEY, wrapped

    clone = model.clone()
    listed = clone.model_options["transformer_options"].get("patches", {}).get("output_block_patch", ())
    run = next((each.run for each in listed if isinstance(each, SkipPatch)), None)
    if run is None:
        run = patch.run
        begin(run, clone)
        clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, partial(begin, run))
        clone.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, run.end)  # v0.3.64 knows no cleanup of patches
        clone.wrappers = wrapped(clone.wrappers)
    patch.run = run
    clone.set_model_output_block_patch(patch)
    return clone


def begin(run: Run, patcher: Any) -> None:
    """Start of a run of a host's MODEL, whose noise schedule may be another than when it was patched."""
    sampling = patcher.get_model_object("model_sampling")
    run.begin(sampling.percent_to_sigma, "tiled_diffusion" in patcher.model_options)


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
    """The model's layout.  Raises LayoutError where `tuner` was not made for it; the log has a warning where it fits
    by its sizes alone."""
    layout = layout_of(base_model)
    if reason := layout.mismatch(tuner.tuner.layout):
        raise LayoutError(f"{tuner.name}: {reason}; choose a tuner that was trained for this base model")
    kind = type(getattr(base_model, "model_config", None)).__name__
    if kind in _KIN:
        log.warning(
            "%s: expected an SD 1.5, SD 2.1 or SDXL model, found %s, whose sizes are the same; no tuner was trained "
            "for it, so that pictures may get worse",
            *(tuner.name, kind),
        )
    return layout
