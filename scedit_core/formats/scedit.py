"""The pack's own format, version 1: the module's names, adapters as matrices, everything else in the metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..weight_files import Entry

NAME = "scedit"
_KEY = re.compile(r"tuners\.\d{1,3}\.(down|up)\.(weight|bias)|hint\.(stem|dense)\.\d{1,3}\.(weight|bias)")


def matches(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is of this format."""
    return any(_KEY.fullmatch(k) for k in keys)


def read(entries: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """One tuner without a name, whose keys are the own names."""
    return {"": {k: k for k in entries if _KEY.fullmatch(k)}}
