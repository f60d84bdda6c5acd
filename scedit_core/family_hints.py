"""The base model's family, told from what stands beside the weights: SD 1.5 and SD 2.1 tuners have the same shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .layout import SD1, SD2, SDXL

_FOLDERS = 4  # as deep as released folders go: SD2.1/style/0_SwiftSCETuning/file
_PATTERNS = {
    SDXL: re.compile(r"(?<![a-z])sd[ _.-]?xl|stable[ _-]diffusion[ _-]xl|(?<![a-z])xl[ _.-]?(base|1)", re.I),
    SD2: re.compile(r"(?<![a-z])sd[ _.-]?v?2([ ._-]?[01])?(?![0-9])|stable[ _-]diffusion[ _-](v)?2(?![0-9])", re.I),
    SD1: re.compile(r"(?<![a-z])sd[ _.-]?v?1([ ._-]?[1-5])?(?![0-9])|stable[ _-]diffusion[ _-](v)?1(?![0-9])", re.I),
}


def family_hint(sidecars: Mapping[str, Any], path: Path, metadata: Mapping[str, str]) -> str | None:
    """The family ("sd1", "sd2", "sdxl") that sidecar, path or metadata name, in that order; None where none does.

    Of a path the last folders count, the nearest first.
    """
    noted = [text for key, text in metadata.items() if not key.startswith("scedit.")]
    places = ([*_strings(sidecars)], [*reversed(path.parts[-_FOLDERS:])], noted)
    for place in places:
        family = _first(place)
        if family is not None:
            return family
    return None


def _first(texts: Iterable[str]) -> str | None:
    for text in texts:
        named = [family for family, pattern in _PATTERNS.items() if pattern.search(text[:4096])]
        if len(named) == 1:
            return named[0]
    return None


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list)) and depth < 8:
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner, depth + 1)
