"""SCEPTER's CSC-Tuner: `pre_hint_blocks`, `dense_hint_blocks`, `lsc_tuner_blocks`.

Keys may begin with `0.` (the index in a list of controls, of which one file can hold several) and with `model.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import TunerFileError
from ..layout import SkipLayout
from ..weight_files import Entry
from .release import LAYERS, Release, adapter_keys, down_ratio, widths

NAME = "scepter"
_PREFIX = r"(?:model\.)?(?:control_blocks\.)?(?:(\d{1,3})\.)?(?:model\.)?"
_STEM = re.compile(_PREFIX + r"pre_hint_blocks\.(\d{1,3})\.(weight|bias)")
_DENSE = re.compile(_PREFIX + r"dense_hint_blocks\.(\d{1,3})\.1\.(weight|bias)")
_ADAPTER = re.compile(_PREFIX + r"lsc_tuner_blocks\.(\d{1,3})\.tuner_op\.(ln1|ln2)\.(weight|bias)")


def matches(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is of this format."""
    keys = list(keys)
    return any(_ADAPTER.fullmatch(k) for k in keys) and any(_DENSE.fullmatch(k) for k in keys)


def read(entries: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """The tuners by their index in the list of controls, or one without a name."""
    tuners: dict[str, dict[str, str]] = {}
    for key in entries:
        if m := _STEM.fullmatch(key):  # convolutions stand at even places, activations between them
            place, odd = divmod(int(m[2]), 2)
            if odd:
                continue
            own = f"hint.stem.{place}.{m[3]}"
        elif m := _DENSE.fullmatch(key):
            own = f"hint.dense.{int(m[2])}.{m[3]}"
        elif m := _ADAPTER.fullmatch(key):
            own = f"tuners.{int(m[2])}.{LAYERS[m[3]]}.{m[4]}"
        else:
            continue
        tuners.setdefault(m[1] or "", {})[own] = key
    return tuners


def notes(sidecars: Mapping[str, Any], name: str) -> dict[str, str]:
    """The control's scale, which `configuration.json` may hold, for a list of controls one for each."""
    config = sidecars.get("configuration.json", {})
    control = config.get("CONTROL_MODEL", config)
    if isinstance(control, list):
        index = int(name or 0)
        control = control[index] if index < len(control) else None
    scale = control.get("SCALE") if isinstance(control, dict) else None
    usable = isinstance(scale, (int, float)) and abs(scale) < 1e6  # neither NaN nor a number beyond all floats
    return {"scedit.scale": str(float(scale))} if usable else {}


def write(tensors: Mapping[str, Tensor], layout: SkipLayout, metadata: Mapping[str, str]) -> Release:
    """As `LatentDiffusionSCEControl.save_pretrained` writes it, with the configuration that SCEPTER builds it from."""
    tuned, levels = widths(tensors), len(layout)
    if len(tuned) != levels:
        raise TunerFileError(
            f"conversion: expected a CSC-Tuner with all {levels} blocks, found {len(tuned)}; "
            "SCEPTER cannot run one with blocks left out, so keep it in the pack's own format"
        )
    first, dense = tensors["hint.stem.0.weight"], tensors["hint.dense.0.weight"]
    control = {
        "NAME": "CSCTuners",
        "PRE_HINT_IN_CHANNELS": 3,
        "PRE_HINT_OUT_CHANNELS": dense.shape[1],
        "PRE_HINT_DIM_RATIO": first.shape[0] / 16,
        "DENSE_HINT_KERNAL": dense.shape[-1],
        "DOWN_RATIO": down_ratio(tensors),
        "SCALE": float(metadata.get("scedit.scale", 1.0)),
        "SC_TUNER_CFG": {"NAME": "SCTuner", "TUNER_NAME": "SCEAdapter"},
    }
    keys = adapter_keys(
        (k for k in tensors if k.startswith("tuners.")), {b: f"0.lsc_tuner_blocks.{b}.tuner_op" for b in tuned}
    )
    for name in tensors:
        part, _, rest = name.removeprefix("hint.").partition(".")
        index, _, kind = rest.partition(".")
        if part == "stem":
            keys[name] = f"0.pre_hint_blocks.{2 * int(index)}.{kind}"
        elif part == "dense":
            keys[name] = f"0.dense_hint_blocks.{index}.1.{kind}"
    return Release(keys, "0_SwiftSCETuning", "pytorch_model.bin", {"configuration.json": {"CONTROL_MODEL": control}})
