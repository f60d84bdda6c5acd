"""SWIFT on diffusers, decoder mode: `[unet.]up_blocks.{u}.resnets.{j}.scetuner_{adapter}.tuner_op.ln1|ln2...`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..layout import SkipLayout
from ..weight_files import Entry
from .release import LAYERS, Release, no_hint, widths
from .swift_scepter import notes, swift_release
from .up_blocks import places, skips_per_block

NAME = "swift-diffusers"
ADAPTER = "default"
_KEY = re.compile(
    r"(?:base_model\.)?(?:model\.)?(?:unet\.)?up_blocks\.(\d{1,2})\.resnets\.(\d{1,2})\.scetuner_(.{1,200}?)"
    r"\.tuner_op\.(ln1|ln2)\.(weight|bias)"
)

__all__ = ["NAME", "matches", "notes", "read", "write"]


def matches(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is of this format."""
    return any(_KEY.fullmatch(k) for k in keys)


def read(entries: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """The tuners by the name of their adapter."""
    found = {k: m for k in entries if (m := _KEY.fullmatch(k))}
    tuned = {
        (int(m[1]), int(m[2])): entries[k].shape[-1]
        for k, m in found.items()
        if m[4] == "ln1" and m[5] == "weight" and entries[k].shape
    }
    count = skips_per_block(tuned) if tuned else 3
    tuners: dict[str, dict[str, str]] = {}
    for key, m in found.items():
        b = int(m[1]) * count + int(m[2])
        tuners.setdefault(m[3], {})[f"tuners.{b}.{LAYERS[m[4]]}.{m[5]}"] = key
    return tuners


def write(tensors: Mapping[str, Tensor], layout: SkipLayout, metadata: Mapping[str, str]) -> Release:
    """As SWIFT saves it for a bare `UNet2DConditionModel`."""
    no_hint(tensors, "swift-diffusers")
    where = places(layout)
    names = {b: f"up_blocks.{where[b][0]}.resnets.{where[b][1]}" for b in widths(tensors)}
    return swift_release(tensors, names, "decoder", ADAPTER)
