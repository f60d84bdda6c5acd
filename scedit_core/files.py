"""Tuner files of every supported format: reading, building, and telling what a file is (saving: see `saving`).

A file is first described from its header alone: format, kind, layout, shapes.  Only what passes is read.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import LayoutError, SCEditError, TunerFileError, UnknownLayoutError
from .family_hints import family_hint
from .formats import FORMATS
from .layout import SD1, SD1_OR_SD2, SD2, SkipLayout, family_of
from .locations import folder_names, read_sidecars, tuner_path
from .saving import FORMAT_VERSION, save_tuner
from .tuners import CSCTuner, SCTuner, to_module
from .weight_files import SUFFIXES, Entry, WeightFile, first_line, shown

__all__ = [
    "SUFFIXES",
    "TunerFile",
    "build_tuner",
    "inspect_tuner",
    "load_tuner",
    "read_tuner",
    "save_tuner",
    "tuner_names",
    "tuner_path",
]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_MOST_BLOCKS, _MOST_CHANNELS, _MOST_STRIDE = 128, 2**16, 2**10
_LORA = re.compile(r".*(lora_(A|B|up|down|unet|te)|\.lora\.).*")


@dataclass
class TunerFile:
    """A tuner as it lies in a file: its kind, source format, layout, metadata, and tensors under the own names."""

    path: Path
    kind: str
    source: str
    layout: SkipLayout
    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    @property
    def blocks(self) -> tuple[int, ...]:
        """The tuned blocks, deepest first."""
        return tuple(sorted({int(k.split(".")[1]) for k in self.tensors if k.startswith("tuners.")}))

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(t.numel() for t in self.tensors.values())


def load_tuner(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    layout: SkipLayout | None = None,
    device: torch.device | str = "cpu",
    operations: ModuleType | Any = None,
) -> SCTuner | CSCTuner:
    """Load a tuner of any supported format, file or released folder, in the dtype of the file.

    name:       which tuner, where the file or folder holds several (see `tuner_names`).
    layout:     of the U-Net that it is for, used where the file does not tell.
    operations: what its layers are made of, torch.nn by default.
    Raises TunerFileError, in one sentence, for a missing, damaged, hostile or foreign file, and
    UnknownLayoutError where the U-Net must be named.
    """
    return build_tuner(read_tuner(path, name, layout), device=device, operations=operations)


def read_tuner(path: str | os.PathLike, name: str | None = None, layout: SkipLayout | None = None) -> TunerFile:
    """Read a tuner file or folder of any supported format.  The tensors are mapped from the file, not copied.

    Files of mixed dtypes are the exception: their tensors become float32, which holds all of them.
    Raises TunerFileError.
    """
    file, keys, weights = _describe(path, name, layout)
    tensors = weights.read(keys.values())
    file.tensors = {own: tensors[key].reshape(file.tensors[own].shape) for own, key in keys.items()}
    for own, tensor in file.tensors.items():
        if not _is_finite(tensor):
            raise TunerFileError(
                f"{shown(file.path)}: expected finite weights, found NaN or infinity in {own}; the training that made "
                "it failed, so use an earlier checkpoint"
            )
    if len({tensor.dtype for tensor in file.tensors.values()}) > 1:
        file.tensors = {own: tensor.float() for own, tensor in file.tensors.items()}
    return file


def build_tuner(
    file: TunerFile, *, device: torch.device | str = "cpu", operations: ModuleType | Any = None
) -> SCTuner | CSCTuner:
    """A module that holds the tensors of `file` without copying them (moved to `device` where it is another)."""
    tuner = _plan(file).build(metadata=file.metadata, operations=operations or _Layers)
    state = to_module(file.tensors)
    tuner.load_state_dict({k: v.to(device) for k, v in state.items()}, assign=True)
    return tuner.requires_grad_(False)


def inspect_tuner(path: str | os.PathLike, name: str | None = None) -> dict[str, Any]:
    """What a file is, from its header alone: kind, format, family, blocks, parameters, dtype, metadata.

    Weights are not read, so that NaN in them is not found.  Raises TunerFileError.
    """
    file, _, _ = _describe(path, name)
    dtypes = {str(t.dtype).removeprefix("torch.") for t in file.tensors.values()}
    return {
        "path": str(file.path),
        "kind": file.kind,
        "format": file.source,
        "family": file.layout.family,
        "channels": list(file.layout.channels),
        "blocks": list(file.blocks),
        "hidden": [file.tensors[f"tuners.{b}.down.weight"].shape[0] for b in file.blocks],
        "parameters": file.parameters,
        "dtype": ", ".join(sorted(dtypes)),
        "metadata": dict(file.metadata),
    }


def tuner_names(path: str | os.PathLike) -> list[str]:
    """The names of the tuners in a file or folder, to choose one from; [""] where there is one without a name.

    Raises TunerFileError.
    """
    folders = folder_names(path)
    if len(folders) > 1:
        return folders
    weights = WeightFile(tuner_path(path))
    return sorted(_read_names(weights)[1])


# --- describing ---------------------------------------------------------------------------------------------------


def _describe(
    path: str | os.PathLike, name: str | None, given: SkipLayout | None = None
) -> tuple[TunerFile, dict[str, str], WeightFile]:
    """A file with meta tensors in place of its weights, the key of each own name, and the open file."""
    weights = WeightFile(tuner_path(path, name))
    where, sidecars = shown(weights.path), read_sidecars(weights.path)
    form, tuners = _read_names(weights)
    chosen = _choose(where, tuners, name, weights.path.parent.name)
    keys = tuners[chosen]
    foreign = sorted(set(weights.entries).difference(*(inner.values() for inner in tuners.values())))
    if foreign:
        raise TunerFileError(
            f"{where}: expected only SCEdit weights, found more; choose a file that holds nothing else ({len(foreign)} "
            f"keys such as {foreign[0][:80]!r})"
        )
    metadata = dict(weights.metadata)
    if hasattr(form, "notes"):
        try:
            metadata = {**form.notes(sidecars, chosen), **metadata}
        except TunerFileError as error:
            raise TunerFileError(f"{where}: {error}") from error
    if form.NAME == "scedit" and metadata.get("scedit.format", FORMAT_VERSION) != FORMAT_VERSION:
        raise TunerFileError(
            f"{where}: expected format version {FORMAT_VERSION}, found {metadata['scedit.format'][:40]!r}; "
            "update ComfyUI-SCEdit"
        )
    tensors = {own: _meta(where, key, own, weights.entries[key]) for own, key in keys.items()}
    kind = metadata.get("scedit.kind") or ("csc" if any(k.startswith("hint.") for k in keys) else "sc")
    if kind not in ("sc", "csc"):
        raise TunerFileError(f"{where}: expected the kind sc or csc, found {kind[:40]!r}; save the file again")
    family = metadata.get("scedit.family")
    if form.NAME != "scedit" or family in (None, SD1_OR_SD2):
        family = family_hint(sidecars, weights.path, metadata) or family
    layout = _layout(where, tensors, metadata, family, given)
    file = TunerFile(weights.path, kind, form.NAME, layout, metadata, tensors)
    _check_shapes(file)
    return file, keys, weights


def _read_names(weights: WeightFile) -> tuple[ModuleType, dict[str, dict[str, str]]]:
    where, keys = shown(weights.path), list(weights.entries)
    for form in FORMATS:
        for pattern, reason in getattr(form, "REFUSED", ()):
            if any(pattern.fullmatch(k) for k in keys):
                raise TunerFileError(f"{where}: expected SCEdit weights, found {reason}")
    form = next((f for f in FORMATS if f.matches(keys)), None)
    if form is not None:
        return form, form.read(weights.entries)
    found = f"keys such as {min(keys)[:80]!r}" if keys else "no weights at all"
    advice = "choose an SC-Tuner or CSC-Tuner file"
    if any(_LORA.fullmatch(k) for k in keys):
        found, advice = f"a LoRA ({found})", "load it with ComfyUI's Load LoRA"
    raise TunerFileError(f"{where}: expected SCEdit weights, found {found}; {advice}")


def _choose(where: str, tuners: Mapping[str, object], name: str | None, folder: str) -> str:
    if len(tuners) == 1:
        return next(iter(tuners))
    if name in tuners:
        return name
    if name is None and folder in tuners:  # SWIFT writes into the folder `style` all whose names begin so
        return folder
    listed = ", ".join(shown(n)[:40] or "(without a name)" for n in sorted(tuners)[:8])
    raise TunerFileError(
        f"{where}: expected the name of one of {len(tuners)} tuners in this file, found {name or 'none'}; "
        f"choose one of {listed}, or split the file with python -m scedit_core convert --name"
    )


def _meta(where: str, key: str, own: str, entry: Entry) -> Tensor:
    if entry.dtype not in _FLOATS:
        raise TunerFileError(
            f"{where}: expected float32, float16 or bfloat16 weights, found {str(entry.dtype).removeprefix('torch.')}; "
            f"choose a file that is not quantised ({first_line(key)})"
        )
    shape = entry.shape
    if own.startswith("tuners.") and len(shape) == 4 and shape[2:] == (1, 1):
        shape = shape[:2]  # an adapter saved as a 1x1 convolution
    if len(shape) not in (1, 2, 4) or min(shape) < 1:
        raise TunerFileError(
            f"{where}: expected weights in {first_line(key)}, found shape {list(shape)}; "
            "the file is damaged, download it again"
        )
    return torch.empty(shape, dtype=entry.dtype, device="meta")


def _layout(
    where: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    family: str | None,
    given: SkipLayout | None,
) -> SkipLayout:
    try:
        if "scedit.channels" in metadata and "scedit.strides" in metadata:
            channels, strides = (json.loads(metadata[f"scedit.{k}"]) for k in ("channels", "strides"))
            layout = SkipLayout(_sizes(channels, _MOST_CHANNELS), _sizes(strides, _MOST_STRIDE))
        else:
            layout = _tuned_layout(where, _channels(tensors), family, given)
        if not math.isfinite(float(metadata.get("scedit.scale", 1.0))):
            raise ValueError("a scale that is not finite")
    except TunerFileError:
        raise
    except LayoutError as error:
        raise TunerFileError(f"{where}: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise TunerFileError(
            f"{where}: expected whole numbers and a finite scale in its metadata, found others; save the file again "
            f"({first_line(error)})"
        ) from error
    # Shapes say more than names: a name only chooses between SD 1.5 and SD 2.1, whose shapes are the same.
    shapes = family_of(layout.channels)
    named = family if shapes == SD1_OR_SD2 and family in (SD1, SD2) else shapes
    return SkipLayout(layout.channels, layout.strides, named)


def _tuned_layout(where: str, tuned: dict[int, int], family: str | None, given: SkipLayout | None) -> SkipLayout:
    try:
        return SkipLayout.from_tuned(tuned, family)
    except LayoutError as error:
        if given is None:
            raise UnknownLayoutError(f"{where}: {error}") from error
    wrong = [b for b, channels in tuned.items() if b >= len(given) or given.channels[b] != channels]
    if wrong:
        raise LayoutError(
            f"expected a tuner for {given.title}, found block {wrong[0]} of {tuned[wrong[0]]} channels; "
            "choose a tuner that was trained for this base model"
        )
    return given


def _sizes(values: Any, most: int) -> tuple[int, ...]:
    whole = isinstance(values, list) and all(isinstance(v, int) and 1 <= v <= most for v in values)
    if not whole or not 1 <= len(values) <= _MOST_BLOCKS:
        raise ValueError(f"{str(values)[:60]} (at most {_MOST_BLOCKS} numbers from 1 to {most})")
    return tuple(values)


def _channels(tensors: Mapping[str, Tensor]) -> dict[int, int]:
    """Channels by block from shapes: dense hint layers tell all of them, adapters those that are tuned."""
    dense = {int(k.split(".")[2]): v.shape[0] for k, v in tensors.items() if re.match(r"hint\.dense\.\d+\.weight", k)}
    if dense and sorted(dense) == list(range(len(dense))):
        return {len(dense) - 1 - i: c for i, c in dense.items()}
    return {int(k.split(".")[1]): v.shape[-1] for k, v in tensors.items() if k.endswith(".down.weight")}


# --- shapes -------------------------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """What a tuner is built from, besides weights and metadata."""

    kind: str
    layout: SkipLayout
    hidden: tuple[tuple[int, int], ...]
    hint: tuple[tuple[str, float], ...]

    def build(self, **options: Any) -> SCTuner | CSCTuner:
        """The module, on the meta device."""
        kind = CSCTuner if self.kind == "csc" else SCTuner
        return kind(self.layout, hidden=dict(self.hidden), device="meta", **dict(self.hint), **options)


class _Layers:
    """Layers without first values: those come from the file, and drawing others takes as long as reading it."""

    class Conv2d(nn.Conv2d):
        """A convolution to be filled."""

        def reset_parameters(self) -> None:
            """Nothing."""


def _plan(file: TunerFile) -> _Plan:
    hidden = tuple((b, _matrix(file, f"tuners.{b}.down.weight").shape[0]) for b in file.blocks)
    if file.kind == "sc":
        return _Plan("sc", file.layout, hidden, ())
    dense, stem = _matrix(file, "hint.dense.0.weight"), _matrix(file, "hint.stem.0.weight")
    hint = (("kernel", dense.shape[-1]), ("stem_width", dense.shape[1]), ("hint_ratio", stem.shape[0] / 16))
    return _Plan("csc", file.layout, hidden, hint)


@lru_cache(maxsize=16)  # files of one shape are many, and building modules costs more than reading a header
def _shapes(plan: _Plan) -> dict[str, torch.Size]:
    return {k: v.shape for k, v in plan.build(operations=_Layers).state_dict().items()}


def _matrix(file: TunerFile, key: str) -> Tensor:
    tensor = file.tensors.get(key)
    if tensor is None or tensor.ndim < 2:
        found = "nothing" if tensor is None else f"shape {list(tensor.shape)}"
        raise TunerFileError(
            f"{shown(file.path)}: expected a weight {key}, found {found}; the file is damaged, download it again"
        )
    return tensor


def _check_shapes(file: TunerFile) -> None:
    where, found = shown(file.path), to_module(file.tensors)
    try:
        expected = _shapes(_plan(file))
    except TunerFileError:
        raise
    except (SCEditError, RuntimeError, ValueError, TypeError) as error:  # sizes that no module can have
        raise TunerFileError(
            f"{where}: expected the shapes of a tuner, found others ({first_line(error)}); the file is damaged"
        ) from error
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise TunerFileError(
            f"{where}: expected {len(expected)} weights, found {len(found)}; download or save it again "
            f"(missing {missing[:2]}, unknown {extra[:2]})"
        )
    for key, shape in expected.items():
        if shape != found[key].shape:
            raise TunerFileError(
                f"{where}: expected {key} of shape {list(shape)}, found {list(found[key].shape)}; "
                "the file is damaged or for another U-Net"
            )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite.  A sum passes over the memory once and is finite only where its terms are; where
    it is not, it may have overflowed, and the extremes decide."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
