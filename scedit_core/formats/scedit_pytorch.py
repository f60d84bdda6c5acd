"""scedit-pytorch: `up_blocks.{u}.sc_tuners.{j}.down|up.weight|bias`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..weight_files import Entry
from .up_blocks import skips_per_block

NAME = "scedit-pytorch"
_KEY = re.compile(r"(?:unet\.)?up_blocks\.(\d{1,2})\.sc_tuners\.(\d{1,2})\.(down|up)\.(weight|bias)")
REFUSED = (
    (
        re.compile(r"(?:unet\.)?up_blocks\.\d{1,2}\.sc_tuners\.\d{1,2}\.model\.\d{1,2}\.(weight|bias)"),
        "adapters of three layers, which are another function than SCEdit's; train with its default tuner",
    ),
)


def matches(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is of this format."""
    return any(_KEY.fullmatch(k) for k in keys)


def read(entries: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """One tuner without a name."""
    found = {k: m for k in entries if (m := _KEY.fullmatch(k))}
    tuned = {
        (int(m[1]), int(m[2])): entries[k].shape[-1]
        for k, m in found.items()
        if m[3] == "down" and m[4] == "weight" and entries[k].shape
    }
    count = skips_per_block(tuned) if tuned else 3
    return {"": {f"tuners.{int(m[1]) * count + int(m[2])}.{m[3]}.{m[4]}": k for k, m in found.items()}}
