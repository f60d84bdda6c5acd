"""SCEdit on diffusers' UNet2DConditionModel: `attach` edits the skips that its up blocks take."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from .conditions.fitting import fit_hint, trained_fitting
from .editing import Edit, edit_skip
from .errors import HintError, LayoutError, SCEditError
from .folding import FoldedEdits, edit_folded, folded
from .layout import SkipLayout
from .tuners import HINT_FACTOR, CSCTuner, SCTuner

_HALF = (torch.bfloat16, torch.float16)


@contextlib.contextmanager
def attach(
    unet: nn.Module, tuners: Iterable[tuple[SCTuner | CSCTuner, float, Tensor | None]], apart: bool = False
) -> Iterator[list[Edit]]:
    """Edit the skips of a diffusers U-Net while the context is open.

        with attach(pipeline.unet, [(style, 1.0, None), (canny, 0.8, hint)]):
            image = pipeline(prompt).images[0]

    tuners: (tuner, strength, hint) each; hint [B,3,H,W] in 0..1 for a CSC-Tuner, B 1 or a divisor of the U-Net's batch;
    None for an SC-Tuner.  Yields the edits, whose strengths and masks may be changed.

    A hint that is 8 times the latent's size is taken as it is; others, and those with alpha, are fitted as the tuner
    was trained (`conditions.fitting`).  Hints are encoded once, in the first forward, and again only where the latent's
    size, or the dtype or device of the U-Net, changes.
    Without gradients all tuners work as one (folding.py); with them one by one, so that each can be trained.
    Float32 weights under a half-precision U-Net are cast where they are used, so that they can be trained; in all other
    cases a tuner of another dtype or device than the U-Net's works through a copy.

    A residual block with the attribute `edit_input` is given a function there in each forward with gradients, which
    edits the skip at the end of its input, and the hint features that the function takes besides; its input then has
    the skip as it was.  So it can edit where it is recomputed.

    apart: each tuner edits a copy of the batch of its own: the rows of the U-Net's output are those of the first tuner,
    then those of the second, and so on, after one pass of the encoder and the middle block.

    Raises LayoutError for a tuner of another U-Net, HintError for a hint that is missing or does not fit, SCEditError
    inside another `attach` on the same U-Net.
    """
    layout = SkipLayout.from_diffusers(unet.config)
    edits, hints = [], []
    dtype = unet.dtype  # asked once, since diffusers walks through all modules
    for tuner, strength, hint in tuners:
        reason = layout.mismatch(tuner.layout)
        if reason:
            raise LayoutError(f"U-Net: {reason}; choose a tuner that was trained for this base model")
        if isinstance(tuner, CSCTuner) == (hint is None):
            found = "none" if hint is None else "a hint for an SC-Tuner"
            raise HintError(f"hint: expected one for each CSC-Tuner and None for others, found {found}; pass it")
        edits.append(Edit(tuner, strength))
        hints.append(hint)
    outside = getattr(unet, "_scedit_attached", False)
    if edits and outside:
        raise SCEditError(
            "U-Net: pass all tuners to one attach, so that each reads the skips as they were; expected a U-Net without "
            "tuners, found one inside another attach"
        )
    encoded: dict[tuple, list] = {}
    size: list[int] = [0, 0]  # of the hint for the latent that the U-Net is at

    def before_conv_in(module: nn.Module, args: tuple) -> None:
        size[:] = (HINT_FACTOR * side for side in args[0].shape[-2:])

    def encode(skip_dtype: torch.dtype, device: torch.device) -> list:
        key = (skip_dtype, device, *size)
        if key not in encoded:
            encoded.clear()
            features = []
            for each, hint in zip(edits, hints, strict=True):
                each.tuner = _beside(each.tuner, device, dtype)  # now, since an offloaded U-Net comes from elsewhere
                if hint is None:
                    features.append(None)
                    continue
                features.append(each.tuner.encode_hint(_fitted(hint, size, each.tuner).to(device, skip_dtype)))
            encoded[key] = features
        return encoded[key]

    kept: dict[str, tuple[tuple, list[Tensor | None], list[FoldedEdits]]] = {}

    def edit(b: int, skip: Tensor, active: list[Edit]) -> Tensor:
        # Folding makes a gradient of the weights for each picture: in float32 it takes up to 1.17 times as long, in
        # bfloat16 it saves 28 ms of a step of many seconds (benchmarks/NOTES.md).
        if torch.is_grad_enabled():
            return edit_skip(b, skip, active)
        state = (skip.dtype, skip.device, *map(_state, active))
        masks = [t for each in active for t in (each.mask, each.rows)]
        # Kept and compared as objects: another mask may come to lie where one was that is gone.
        if "edits" not in kept or kept["edits"][0] != state or not _same(kept["edits"][1], masks):
            kept["edits"] = (state, masks, folded(active, skip))
        return edit_folded(b, skip, kept["edits"][2])

    def before_up_block(first: int, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if "res_hidden_states_tuple" not in kwargs:
            raise SCEditError(
                "diffusers: expected up blocks that take res_hidden_states_tuple by name, found none; "
                "use diffusers 0.30 or newer"
            )
        skips: Sequence[Tensor] = kwargs["res_hidden_states_tuple"]
        active = [each for each in edits if each.strength != 0]
        if not active and not apart:
            return args, kwargs
        for each, features in zip(edits, encode(skips[-1].dtype, skips[-1].device), strict=True):
            each.hint_features = features
        edited = list(skips)
        for j in range(len(module.resnets)):
            skip, b = skips[-1 - j], first + j
            if apart:
                edited[-1 - j] = torch.cat([edit(b, skip, [each] if each.strength else []) for each in edits])
            elif torch.is_grad_enabled() and hasattr(module.resnets[j], "edit_input"):
                # as they are in this forward, not when it is recomputed
                now = [replace(each, hint_features=None) for each in active]
                features = [each.hint_features and each.hint_features[b] for each in active]
                module.resnets[j].edit_input = partial(_edit_end, b, skip.shape[1], now), features
            else:
                edited[-1 - j] = edit(b, skip, active)
        if apart:
            kwargs = _for_each(kwargs, len(edits), first == 0)
        return args, {**kwargs, "res_hidden_states_tuple": tuple(edited)}

    handles, first = [unet.conv_in.register_forward_pre_hook(before_conv_in)], 0
    unet._scedit_attached = outside or bool(edits)
    try:
        for block in unet.up_blocks:
            handles.append(block.register_forward_pre_hook(partial(before_up_block, first), with_kwargs=True))
            first += len(block.resnets)
        yield edits
    finally:
        unet._scedit_attached = outside
        for handle in handles:
            handle.remove()
        encoded.clear()
        kept.clear()
        for each in edits:
            each.hint_features = None


def _edit_end(b: int, channels: int, edits: list[Edit], x: Tensor, *features: Tensor | None) -> Tensor:
    """The input x [B,C,h,w] of a residual block, whose last `channels` are the skip of block b, with that edited."""
    before, skip = x.split([x.shape[1] - channels, channels], dim=1)
    edits = [replace(each, hint_features={b: feature}) for each, feature in zip(edits, features, strict=True)]
    return torch.cat([before, edit_skip(b, skip.contiguous(), edits)], dim=1)


def _for_each(kwargs: dict, copies: int, begins: bool) -> dict:
    """What an up block is given besides its skips, for `copies` batches; what goes through is copied once."""
    repeated = {"temb", "encoder_hidden_states"} | ({"hidden_states"} if begins else set())
    return {
        key: value.repeat(copies, *(1,) * (value.ndim - 1)) if key in repeated and value is not None else value
        for key, value in kwargs.items()
    }


def _beside(tuner: SCTuner | CSCTuner, device: torch.device, dtype: torch.dtype) -> SCTuner | CSCTuner:
    """The tuner itself where it can work under a U-Net as it is, else a copy on its device and in its dtype."""
    trainable = tuner.dtype == torch.float32 and dtype in _HALF
    if next(tuner.parameters()).device == device and (tuner.dtype == dtype or trainable):
        return tuner
    return copy.deepcopy(tuner).to(device, dtype)


def _fitted(hint: Tensor, size: Sequence[int], tuner: CSCTuner) -> Tensor:
    if tuple(hint.shape[-3:]) == (3, *size) and hint.is_floating_point():
        return hint
    return fit_hint(hint, *size, trained_fitting(tuner.metadata))


def _state(edit: Edit) -> tuple:
    """What the folded form of an edit depends on beside mask and rows; weights that are trained count up a version."""
    weights = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in edit.tuner.tuners.parameters()]
    features = edit.hint_features and tuple(map(id, edit.hint_features))
    masks = [t._version for t in (edit.mask, edit.rows) if t is not None and not t.is_inference()]
    return edit.weights(), features, edit.resize_hint, tuple(weights), tuple(masks)


def _same(before: Sequence[Tensor | None], now: Sequence[Tensor | None]) -> bool:
    """Whether they are the same masks and rows; those of inference mode may have been filled anew without a trace."""
    return len(before) == len(now) and all(
        a is b and not (a is not None and a.is_inference()) for a, b in zip(before, now, strict=True)
    )
