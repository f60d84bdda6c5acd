"""Tuner files: reading, building, saving, and telling what a file is.

The pack's own format, version 1, is safetensors with the names of the modules here and the metadata of DESIGN.  Other
formats are read through `formats`.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import LayoutError, TunerFileError
from .formats import FORMATS
from .layout import SkipLayout
from .tuners import CSCTuner, SCTuner, to_module

FORMAT_VERSION = "1"
_OWN_KEY = re.compile(r"tuners\.\d+\.(down|up)\.(weight|bias)|hint\.(stem|dense)\.\d+\.(weight|bias)")
_PICKLES = (".bin", ".pth", ".pt", ".ckpt")
SUFFIXES = (".safetensors", *_PICKLES)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# Names that released folders use for the one file inside, best first.
_FOLDER_FILES = ("adapter_model", "pytorch_model", "diffusion_pytorch_model", "model")


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
    path: str | os.PathLike, *, device: torch.device | str = "cpu", operations: ModuleType | Any = nn
) -> SCTuner | CSCTuner:
    """Load a tuner of any supported format, in the dtype of the file.

    Raises TunerFileError, in one sentence, for a missing, damaged, hostile or foreign file.
    """
    return build_tuner(read_tuner(path), device=device, operations=operations)


def build_tuner(
    file: TunerFile, *, device: torch.device | str = "cpu", operations: ModuleType | Any = nn
) -> SCTuner | CSCTuner:
    """A module that holds the tensors of `file` without copying them (moved to `device` where it is another)."""
    hidden = {b: _matrix(file, f"tuners.{b}.down.weight").shape[0] for b in file.blocks}
    options = {"hidden": hidden, "metadata": file.metadata, "device": "meta", "operations": operations}
    if file.kind == "sc":
        tuner = SCTuner(file.layout, **options)
    else:
        last, first = _matrix(file, "hint.dense.0.weight"), _matrix(file, "hint.stem.0.weight")
        tuner = CSCTuner(
            file.layout,
            kernel=last.shape[-1],
            stem_width=last.shape[1],
            hint_ratio=first.shape[0] // 16,
            **options,
        )
    state = to_module(file.tensors)
    _check_shapes(file.path, tuner.state_dict(), state)
    tuner.load_state_dict({k: v.to(device) for k, v in state.items()}, assign=True)
    return tuner.requires_grad_(False)


def read_tuner(path: str | os.PathLike) -> TunerFile:
    """Read a tuner file or folder of any supported format.  Raises TunerFileError."""
    path = tuner_path(path)
    return _interpret(path, *_read_tensors(path))


def inspect_tuner(path: str | os.PathLike) -> dict[str, Any]:
    """What a file is, without keeping its weights: kind, format, family, blocks, parameters, dtype, metadata.

    Raises TunerFileError.
    """
    file = read_tuner(path)
    return {
        "path": str(file.path),
        "kind": file.kind,
        "format": file.source,
        "family": file.layout.family,
        "channels": list(file.layout.channels),
        "blocks": list(file.blocks),
        "hidden": [file.tensors[f"tuners.{b}.down.weight"].shape[0] for b in file.blocks],
        "parameters": file.parameters,
        "dtype": str(next(iter(file.tensors.values())).dtype).removeprefix("torch."),
        "metadata": dict(file.metadata),
    }


def save_tuner(
    tuner: SCTuner | CSCTuner,
    path: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Save in the pack's own format, with the tuner's metadata extended by `metadata`; returns the path.

    The file is written beside its place and renamed, so an interrupted save leaves the old file whole.
    Raises TunerFileError where it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise TunerFileError(
            f"{path}: expected a file name that ends in .safetensors, found {path.suffix or 'no ending'}; rename it"
        )
    tensors = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in tuner.to_file().items()}
    notes = {**tuner.metadata, **{k: str(v) for k, v in (metadata or {}).items()}, **_own_metadata(tuner)}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        save_file(tensors, temporary, notes)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise TunerFileError(f"{path}: could not be written ({error}); free space or choose another folder") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return path


def tuner_path(path: str | os.PathLike) -> Path:
    """The weight file that `path` means: itself, or the one inside a released folder.  Raises TunerFileError."""
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise TunerFileError(
                f"{path}: expected a tuner file ({', '.join(SUFFIXES)}), found {path.suffix or 'no ending'}; "
                "choose the weight file itself"
            )
        return path
    if not path.is_dir():
        raise TunerFileError(f"{path}: expected a tuner file or folder, found nothing there; check the path")
    candidates = [path / (stem + suffix) for stem in _FOLDER_FILES for suffix in SUFFIXES]
    found = [c for c in candidates if c.is_file()]
    inner = path / "0_SwiftSCETuning"
    if not found and inner.is_dir() and path.name != inner.name:
        return tuner_path(inner)
    if not found:
        found = sorted(f for f in path.iterdir() if f.is_file() and f.suffix.lower() in SUFFIXES)[:1]
    if not found:
        raise TunerFileError(
            f"{path}: expected a folder with a tuner file, found none; choose the folder that holds it"
        )
    return found[0]


# --- reading ------------------------------------------------------------------------------------------------------


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by key and the file's metadata, for safetensors and for pickles (weights only, nothing executed)."""
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                return {k: opened.get_tensor(k) for k in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise TunerFileError(
            f"{path}: expected a whole tuner file, found one that cannot be read ({_first_line(error)}); "
            "download it again"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
        raise TunerFileError(
            f"{path}: expected a dictionary of weights, found {type(state).__name__}; choose the tuner's weight file"
        )
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}, {}


def _interpret(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> TunerFile:
    if any(_OWN_KEY.fullmatch(k) for k in tensors):
        source, kind, names = "scedit", None, {k: k for k in tensors if _OWN_KEY.fullmatch(k)}
        version = metadata.get("scedit.format", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise TunerFileError(
                f"{path}: expected format version {FORMAT_VERSION}, found {version}; update ComfyUI-SCEdit"
            )
    else:
        form = next((f for f in FORMATS if f.matches(tensors)), None)
        if form is None:
            raise TunerFileError(
                f"{path}: expected SCEdit weights, found {_sample(tensors)}; choose an SC-Tuner or CSC-Tuner file"
            )
        source, kind, names = form.NAME, form.KIND, form.names(tensors)
        metadata = {**_sidecar(path), **metadata}
    foreign = sorted(set(tensors) - set(names))
    if foreign:
        raise TunerFileError(
            f"{path}: expected only SCEdit weights, found {len(foreign)} more keys such as {foreign[0][:80]!r}; "
            "choose a file that holds one tuner"
        )
    if len(set(names.values())) != len(names):
        raise TunerFileError(f"{path}: expected one tuner, found several in one file; split it into a file for each")
    own = {names[k]: tensors[k] for k in tensors}
    has_hint = any(k.startswith("hint.") for k in own)
    kind = kind or ("csc" if has_hint else "sc")
    _check_tensors(path, own)
    layout = _layout(path, own, metadata)
    file = TunerFile(path, kind, source, layout, metadata, own)
    if not file.blocks:
        raise TunerFileError(f"{path}: expected adapters for at least one block, found none; choose another file")
    if file.blocks[-1] >= len(layout):
        raise TunerFileError(
            f"{path}: expected blocks 0 to {len(layout) - 1}, found {file.blocks[-1]}; the file is damaged"
        )
    return file


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            raise TunerFileError(
                f"{path}: expected float32, float16 or bfloat16 weights, found {str(tensor.dtype)[6:]} in {key}; "
                "choose a file that is not quantised"
            )
        if tensor.numel() == 0 or tensor.ndim not in (1, 2, 4):
            raise TunerFileError(
                f"{path}: expected weights in {key}, found shape {list(tensor.shape)}; file is damaged"
            )
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise TunerFileError(
                f"{path}: expected finite weights, found NaN or infinity in {key}; the training that made it failed, "
                "so use an earlier checkpoint"
            )


def _layout(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> SkipLayout:
    family = metadata.get("scedit.family")
    try:
        if "scedit.channels" in metadata and "scedit.strides" in metadata:
            channels = tuple(int(c) for c in json.loads(metadata["scedit.channels"]))
            strides = tuple(int(s) for s in json.loads(metadata["scedit.strides"]))
            layout = SkipLayout(channels, strides, family or "custom")
        else:
            layout = SkipLayout.from_tuned(_channels(tensors), family)
        float(metadata.get("scedit.scale", 1.0))
    except LayoutError as error:
        raise TunerFileError(f"{path}: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise TunerFileError(
            f"{path}: expected lists of whole numbers in the metadata, found {_first_line(error)}; save the file again"
        ) from error
    return layout


def _channels(tensors: Mapping[str, Tensor]) -> dict[int, int]:
    """Channels by block from shapes: dense hint layers tell all of them, adapters those that are tuned."""
    dense = {int(k.split(".")[2]): v.shape[0] for k, v in tensors.items() if re.match(r"hint\.dense\.\d+\.weight", k)}
    if dense and sorted(dense) == list(range(len(dense))):
        return {len(dense) - 1 - i: c for i, c in dense.items()}
    return {int(k.split(".")[1]): v.shape[-1] for k, v in tensors.items() if k.endswith(".down.weight")}


def _sidecar(path: Path) -> dict[str, str]:
    """What a `configuration.json` beside the file says, as metadata; never required, never trusted with shapes."""
    sidecar = path.parent / "configuration.json"
    try:
        scale = json.loads(sidecar.read_text("utf-8"))["CONTROL_MODEL"]["SCALE"]
        return {"scedit.scale": str(float(scale))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _matrix(file: TunerFile, key: str) -> Tensor:
    tensor = file.tensors.get(key)
    if tensor is None or tensor.ndim < 2:
        found = "nothing" if tensor is None else f"shape {list(tensor.shape)}"
        raise TunerFileError(f"{file.path}: expected a weight {key}, found {found}; the file is damaged")
    return tensor


def _check_shapes(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise TunerFileError(
            f"{path}: expected {len(expected)} weights, found {len(found)} "
            f"(missing {missing[:2]}, unknown {extra[:2]}); download or save it again"
        )
    for key, tensor in expected.items():
        if tensor.shape != found[key].shape:
            raise TunerFileError(
                f"{path}: expected {key} of shape {list(tensor.shape)}, found {list(found[key].shape)}; "
                "the file is damaged or for another U-Net"
            )


def _own_metadata(tuner: SCTuner | CSCTuner) -> dict[str, str]:
    return {
        "scedit.format": FORMAT_VERSION,
        "scedit.kind": tuner.kind,
        "scedit.channels": json.dumps(list(tuner.layout.channels)),
        "scedit.strides": json.dumps(list(tuner.layout.strides)),
        "scedit.family": tuner.layout.family,
    }


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _sample(tensors: Mapping[str, Tensor]) -> str:
    return f"keys such as {sorted(tensors)[0][:80]!r}" if tensors else "no weights at all"
