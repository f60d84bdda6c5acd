"""How a foreign format places a tuner on disk, and the one ratio by which the authors' packages size adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import TunerFileError

LAYERS = {"ln1": "down", "ln2": "up"}  # the authors' names for the two linear maps of an adapter
_FOREIGN = {own: foreign for foreign, own in LAYERS.items()}


@dataclass(frozen=True)
class Release:
    """Keys and places of a tuner in a foreign format.

    keys:     {own name: key}.
    folder:   the folder of the weight file inside the one the user names.
    file:     the weight file's name.
    sidecars: JSON beside the weights, by file name.
    """

    keys: dict[str, str]
    folder: str
    file: str
    sidecars: dict[str, dict[str, Any]] = field(default_factory=dict)


def adapter_keys(names: Iterable[str], places: Mapping[int, str]) -> dict[str, str]:
    """{own name: key} for adapters; `places` tells what stands before `ln1` for each block."""
    keys = {}
    for name in names:
        _, b, layer, kind = name.split(".")
        keys[name] = f"{places[int(b)]}.{_FOREIGN[layer]}.{kind}"
    return keys


def widths(tensors: Mapping[str, Tensor]) -> dict[int, tuple[int, int]]:
    """(channels, hidden width) of each tuned block, by block."""
    downs = {int(k.split(".")[1]): v.shape for k, v in tensors.items() if k.endswith(".down.weight")}
    return {b: (shape[1], shape[0]) for b, shape in sorted(downs.items())}


def down_ratio(tensors: Mapping[str, Tensor]) -> float:
    """The ratio for which every hidden width is int(channels * ratio).  Raises TunerFileError where there is none."""
    pairs = list(widths(tensors).values())
    for offset in (0.0, 0.5):
        for channels, hidden in pairs:
            ratio = (hidden + offset) / channels
            if all(int(c * ratio) == h for c, h in pairs):
                return ratio
    raise TunerFileError(
        "conversion: expected hidden widths of one ratio to the channels, found others; keep the pack's own format "
        f"(channels and hidden widths: {pairs[:4]})"
    )


def no_hint(tensors: Mapping[str, Tensor], title: str) -> None:
    """Raises TunerFileError for a CSC-Tuner, which SWIFT's formats cannot hold."""
    if any(k.startswith("hint.") for k in tensors):
        raise TunerFileError(
            f"conversion: expected an SC-Tuner for {title}, found a CSC-Tuner; convert it to scepter, whose format "
            "can hold it"
        )
