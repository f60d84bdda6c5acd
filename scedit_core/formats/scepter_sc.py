"""SCEPTER's SC-Tuner: `[model.]lsc_identity.{b}.tuner_op.ln1|ln2.weight|bias`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..layout import SkipLayout
from ..weight_files import Entry
from . import scepter_csc
from .release import LAYERS, Release, adapter_keys, down_ratio, widths

NAME = "scepter"
_KEY = re.compile(r"(?:model\.)?lsc_identity\.(\d{1,3})\.tuner_op\.(ln1|ln2)\.(weight|bias)")


def matches(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is of this format."""
    return any(_KEY.fullmatch(k) for k in keys)


def read(entries: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """One tuner without a name."""
    found = ((k, _KEY.fullmatch(k)) for k in entries)
    return {"": {f"tuners.{int(m[1])}.{LAYERS[m[2]]}.{m[3]}": k for k, m in found if m}}


def write(tensors: Mapping[str, Tensor], layout: SkipLayout, metadata: Mapping[str, str]) -> Release:
    """As `LatentDiffusionSCETuning.save_pretrained` writes it; a CSC-Tuner as that of `LatentDiffusionSCEControl`."""
    if any(k.startswith("hint.") for k in tensors):
        return scepter_csc.write(tensors, layout, metadata)
    tuned = widths(tensors)
    model = {
        "SC_TUNER_CFG": {"NAME": "SCTuner", "TUNER_NAME": "SCEAdapter", "DOWN_RATIO": down_ratio(tensors)},
        "USE_LAYERS": list(tuned) if len(tuned) < len(layout) else None,
    }
    return Release(
        adapter_keys(tensors, {b: f"model.lsc_identity.{b}.tuner_op" for b in tuned}),
        "0_SwiftSCETuning",
        "pytorch_model.bin",
        {"configuration.json": {"TUNER_MODEL": model}},
    )
