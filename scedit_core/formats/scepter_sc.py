"""SCEPTER's SC-Tuner: `[model.]lsc_identity.{b}.tuner_op.ln1|ln2.weight|bias` (reference/weights.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable

NAME = "scepter"
KIND = "sc"
LAYERS = {"ln1": "down", "ln2": "up"}
_KEY = re.compile(r"(?:model\.)?lsc_identity\.(\d+)\.tuner_op\.(ln1|ln2)\.(weight|bias)")


def matches(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is of this format."""
    return any(_KEY.fullmatch(k) for k in keys)


def names(keys: Iterable[str]) -> dict[str, str]:
    """Map each key of this format to the pack's own name; other keys are left out."""
    found = ((k, _KEY.fullmatch(k)) for k in keys)
    return {k: f"tuners.{int(m[1])}.{LAYERS[m[2]]}.{m[3]}" for k, m in found if m}
