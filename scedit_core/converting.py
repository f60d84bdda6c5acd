"""Tuners from one format to another, bit by bit, and tuners without the blocks that do nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from .errors import SCEditError, TunerFileError
from .files import TunerFile, build_tuner, read_tuner
from .formats import scepter_sc, swift_diffusers, swift_scepter
from .locations import weight_files
from .saving import cast, save_tuner, write_whole
from .tuners import CSCTuner, SCTuner, rebuilt
from .weight_files import SUFFIXES, shown

_WRITERS = {"scepter": scepter_sc, "swift": swift_scepter, "swift-diffusers": swift_diffusers}
TARGETS = ("scedit", *_WRITERS)


class Conversion(NamedTuple):
    """The file that was written, and the digest of the tensors before and after."""

    path: Path
    before: str
    after: str


def convert_tuner(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str,
    dtype: torch.dtype | None = None,
    name: str | None = None,
) -> Conversion:
    """Convert the tuner at `source` to the format `to`, one of TARGETS, and read it back.

    target: a file, or, for other formats than the pack's own, a folder that the authors' package loads.
    dtype:  of the new file; without it no bit of a tensor changes.
    name:   which tuner, where `source` holds several.

    Raises TunerFileError where the format cannot hold the tuner or the file cannot be written.
    """
    file, target = read_tuner(source, name), Path(target)
    before = digest(file.tensors)
    if to == "scedit":
        written = save_tuner(build_tuner(file), target, dtype=dtype)
    elif target.exists() and os.path.samefile(source, target) and target.is_file():
        raise TunerFileError(
            f"{shown(target)}: expected another file than IN, whose metadata {to[:20]} cannot hold; name another"
        )
    else:
        written = _write_foreign(file, target, to, dtype)
    after = digest(read_tuner(written).tensors)
    if dtype is None and after != before:
        raise TunerFileError(
            f"{shown(written)}: expected the tensors that were read, found others; convert again (digests "
            f"{before[:16]}, {after[:16]}), and check disk and memory"
        )
    return Conversion(written, before, after)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names: equal for equal tuners."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.view(torch.uint8).numpy().data)
    return total.hexdigest()


def nil_blocks(tuner: SCTuner | CSCTuner) -> list[int]:
    """The blocks whose edit is zero for every input: `up` is zero, and so is the hint's layer for a CSC-Tuner."""
    last = len(tuner.layout) - 1

    def silent(layer: torch.nn.Module) -> bool:
        return not (layer.weight.any() or layer.bias.any())

    return [
        b
        for b in tuner.blocks
        if silent(tuner.tuners[str(b)].up) and (isinstance(tuner, SCTuner) or silent(tuner.hint.dense[last - b]))
    ]


def without_blocks(tuner: SCTuner | CSCTuner, blocks: Iterable[int]) -> SCTuner | CSCTuner:
    """The same tuner with `blocks` left untouched; weights are shared.

    Raises SCEditError for blocks that it does not tune, and where none would be left.
    """
    dropped = set(blocks)
    unknown, kept = sorted(dropped - set(tuner.blocks)), sorted(set(tuner.blocks) - dropped)
    if unknown or not kept:
        raise SCEditError(
            f"prune: expected some of the tuned blocks {list(tuner.blocks)}, found {unknown or 'all of them'}; "
            "name blocks that the tuner has and leave at least one"
        )
    pruned = rebuilt(tuner, torch.nn, tuner.dtype)
    for b in dropped:
        del pruned.tuners[str(b)]
    return pruned


def _write_foreign(file: TunerFile, target: Path, to: str, dtype: torch.dtype | None) -> Path:
    if to not in _WRITERS:
        raise SCEditError(f"format: expected one of {', '.join(TARGETS)}, found {to[:40]!r}; choose one of them")
    release = _WRITERS[to].write(file.tensors, file.layout, file.metadata)
    tensors = {key: cast(own, file.tensors[own], dtype) for own, key in release.keys.items()}
    sidecars: Mapping[str, dict] = {}
    if target.suffix.lower() not in SUFFIXES:
        folder, target, sidecars = target, target / release.folder / release.file, release.sidecars
        places = [folder, *folder.iterdir()] if folder.is_dir() else []
        others = [each for place in places for each in weight_files(place) if each != target]
        if others:
            raise TunerFileError(
                f"{shown(folder)}: expected no other tuner there, found {shown(others[0].name)}; name another, "
                "since only one of both would be loaded"
            )
    elif release.sidecars and float(file.metadata.get("scedit.scale", 1.0)) != 1.0:
        raise TunerFileError(
            f"{shown(target)}: expected a folder, which can hold the scale of this control, found a file; name a folder"
        )
    if target.suffix.lower() == ".safetensors":
        write_whole(target, lambda place: save_file(tensors, place, {"format": "pt"}))
    else:
        write_whole(target, lambda place: torch.save(tensors, place))
    for name, content in sidecars.items():
        text = json.dumps(content, indent=2) + "\n"
        write_whole(target.parent / name, lambda place, text=text: Path(place).write_text(text, "utf-8"))
    return target
