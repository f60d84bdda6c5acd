"""SCEPTER's CSC-Tuner: `pre_hint_blocks`, `dense_hint_blocks`, `lsc_tuner_blocks` (reference/weights.md).

Keys may begin with `0.` (the index in a list of controls) and with `model.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .scepter_sc import LAYERS

NAME = "scepter"
KIND = "csc"
_STEM = re.compile(r"(?:\d+\.)?(?:model\.)?pre_hint_blocks\.(\d+)\.(weight|bias)")
_DENSE = re.compile(r"(?:\d+\.)?(?:model\.)?dense_hint_blocks\.(\d+)\.1\.(weight|bias)")
_ADAPTER = re.compile(r"(?:\d+\.)?(?:model\.)?lsc_tuner_blocks\.(\d+)\.tuner_op\.(ln1|ln2)\.(weight|bias)")


def matches(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is of this format."""
    keys = list(keys)
    return any(_ADAPTER.fullmatch(k) for k in keys) and any(_DENSE.fullmatch(k) for k in keys)


def names(keys: Iterable[str]) -> dict[str, str]:
    """Map each key of this format to the pack's own name; other keys are left out."""
    named = {}
    for key in keys:
        if m := _STEM.fullmatch(key):  # convolutions stand at even places, activations between them
            named[key] = f"hint.stem.{int(m[1]) // 2}.{m[2]}"
        elif m := _DENSE.fullmatch(key):
            named[key] = f"hint.dense.{int(m[1])}.{m[2]}"
        elif m := _ADAPTER.fullmatch(key):
            named[key] = f"tuners.{int(m[1])}.{LAYERS[m[2]]}.{m[3]}"
    return named
