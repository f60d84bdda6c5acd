"""Several SC-Tuners as one, exactly: the sum of two-layer adapters is one adapter with stacked hidden units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import SCEditError
from .layout import SD1_OR_SD2
from .tuners import SCTuner, to_module


def merge_sc_tuners(tuners: Sequence[tuple[SCTuner, float]]) -> SCTuner:
    """One SC-Tuner whose residual is the sum of `weight * A(s)` over all (tuner, weight).

    Exact up to rounding, and not an average of weights: down matrices and biases are stacked, up matrices stacked side
    by side and scaled, up biases scaled and added.  The hidden width of a block is the sum of those merged.  Weights of
    mixed dtypes, and scaled half-precision ones, become float32 so that nothing is lost.  The metadata are the first
    tuner's, without what does not hold of the sum.

    Raises SCEditError for no tuners, for other tuners than SC-Tuners and for tuners of different U-Nets.
    """
    if not tuners:
        raise SCEditError("merge: expected at least one SC-Tuner, found none; connect one")
    first = tuners[0][0]
    for i, (tuner, weight) in enumerate(tuners):
        if not math.isfinite(weight):
            raise SCEditError(f"weight: expected a number for each tuner, found {weight}; correct it")
        if not isinstance(tuner, SCTuner):
            raise SCEditError(
                "merge: expected SC-Tuners, found a CSC-Tuner; apply control tuners one after the other instead, since "
                "each has a hint of its own"
            )
        for other, _ in tuners[:i]:  # all of them, since one may fit two families that do not fit each other
            reason = other.layout.mismatch(tuner.layout)
            if reason:
                raise SCEditError(f"merge: {reason}; merge tuners of one base model")
    dtypes = {tuner.dtype for tuner, _ in tuners}
    keeps = len(dtypes) == 1 and all(weight == 1 for _, weight in tuners)
    dtype = first.dtype if keeps else torch.float32
    parts = [({k: v.to(dtype) for k, v in tuner.to_file().items()}, weight) for tuner, weight in tuners]
    state: dict[str, Tensor] = {}
    hidden: dict[int, int] = {}
    for b in range(len(first.layout)):
        tuned = [(state_b, weight) for state_b, weight in parts if f"tuners.{b}.down.weight" in state_b]
        if not tuned:
            continue
        name = f"tuners.{b}."
        state[name + "down.weight"] = torch.cat([p[name + "down.weight"] for p, _ in tuned])
        state[name + "down.bias"] = torch.cat([p[name + "down.bias"] for p, _ in tuned])
        state[name + "up.weight"] = torch.cat([w * p[name + "up.weight"] for p, w in tuned], dim=1)
        state[name + "up.bias"] = torch.stack([w * p[name + "up.bias"] for p, w in tuned]).sum(0)
        hidden[b] = state[name + "down.weight"].shape[0]
    metadata = {k: v for k, v in first.metadata.items() if not k.startswith("modelspec.")}
    if len({tuner.metadata.get("scedit.prediction") for tuner, _ in tuners}) > 1:
        metadata.pop("scedit.prediction", None)
    layouts = sorted((tuner.layout for tuner, _ in tuners), key=lambda each: each.family == SD1_OR_SD2)
    merged = SCTuner(layouts[0], hidden=hidden, metadata=metadata, device="meta")
    merged.load_state_dict(to_module(state), assign=True)
    return merged.requires_grad_(False)
