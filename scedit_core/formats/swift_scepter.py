"""SWIFT inside SCEPTER: `model.lsc_identity.{b}.scetuner_{adapter}.tuner_op.ln1|ln2...`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import TunerFileError
from ..layout import SkipLayout
from ..weight_files import Entry, first_line
from .release import LAYERS, Release, adapter_keys, down_ratio, no_hint, widths

NAME = "swift"
FOLDER = "0_SwiftSCETuning"
_KEY = re.compile(
    r"(?:base_model\.)?(?:model\.)?lsc_identity\.(\d{1,3})\.scetuner_(.{1,200}?)\.tuner_op\.(ln1|ln2)\.(weight|bias)"
)
REFUSED = (
    (
        re.compile(r"(?:.*\.)?(?:down_blocks|input_blocks|mid_block|middle_block)\..*scetuner_.*"),
        "weights of SWIFT's encoder mode, which edits the encoder and not the skips; train in decoder or identity mode",
    ),
)


def matches(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is of this format."""
    return any(_KEY.fullmatch(k) for k in keys)


def read(entries: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """The tuners by the name of their adapter."""
    tuners: dict[str, dict[str, str]] = {}
    for key in entries:
        if m := _KEY.fullmatch(key):
            tuners.setdefault(m[2], {})[f"tuners.{int(m[1])}.{LAYERS[m[3]]}.{m[4]}"] = key
    return tuners


def notes(sidecars: Mapping[str, Any], name: str) -> dict[str, str]:
    """Nothing; raises TunerFileError where `adapter_config.json` names a mode that edits other things than skips."""
    mode = sidecars.get("adapter_config.json", {}).get("tuner_mode", "identity")
    if mode not in ("identity", "decoder"):
        raise TunerFileError(
            f"expected SWIFT's identity or decoder mode, found {first_line(mode)!r}, which does not edit skips; "
            "train the tuner in decoder mode"
        )
    return {}


def write(tensors: Mapping[str, Tensor], layout: SkipLayout, metadata: Mapping[str, str]) -> Release:
    """As SWIFT saves it for SCEPTER's U-Net, with the adapter named for its folder."""
    no_hint(tensors, "swift")
    places = {b: f"model.lsc_identity.{b}" for b in widths(tensors)}
    return swift_release(tensors, places, "identity", FOLDER)


def swift_release(tensors: Mapping[str, Tensor], places: Mapping[int, str], mode: str, adapter: str) -> Release:
    """A folder that `Swift.from_pretrained` loads: `places` names the module that each block's adapter hangs on."""
    tuned = widths(tensors)
    config = {
        "swift_type": "SCETuning",
        "tuner_mode": mode,
        "tuner_op": "SCEAdapter",
        "dims": [channels for channels, _ in tuned.values()],
        "target_modules": [places[b] for b in tuned],
        "hint_modules": None,
        "down_ratio": down_ratio(tensors),
        "model_key_mapping": None,
    }
    keys = adapter_keys(tensors, {b: f"{places[b]}.scetuner_{adapter}.tuner_op" for b in tuned})
    return Release(keys, adapter, "adapter_model.safetensors", {"adapter_config.json": config})
