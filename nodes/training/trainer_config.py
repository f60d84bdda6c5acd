"""What the training node asks of the trainer: a YAML file made of its widgets and of a file of the user's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ...scedit_core import SCEditError
from ...scedit_core.fitting.optimizers import KINDS as OPTIMIZERS
from ...scedit_core.fitting.yaml_text import load_yaml
from ...scedit_core.saving import replace_file

STYLE = "style"
# The node's kinds: a style, or a control named for its condition, as the trainer's `data.condition.type` has it.
KINDS = (STYLE, "canny", "soft_edge", "depth", "pose", "segmentation", "color_palette", "completion")

_SLOW = {"loop": {"learning_rate": 5e-5, "batch": 4, "ema": 0.999}, "objective": {"min_snr_gamma": 5.0}}
# Preset: optimiser updates of a style and of a control, and the trainer's keys.
PRESETS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "fast": (400, 4000, {"loop": {"learning_rate": 2e-4, "batch": 2}}),
    "balanced": (1200, 15000, {"loop": {"learning_rate": 1e-4, "batch": 4}}),
    "careful": (3000, 50000, _SLOW),
}
_LOW_MEMORY = {"checkpointing": True, "fp8": True, "vae": "bf16"}

# Keys of the trainer that hold paths; in a user's file they start at that file's folder.
PATHS = (
    "base",
    "vae",
    "tokenizer",
    "tuner.start_from",
    "teacher.controlnet",
    "data.folder",
    "data.folders.folder",
    "data.folders.hints",
    "data.folders.masks",
    "data.shards",
    "data.hints",
    "data.masks",
    "data.cache",
    "data.annotators",
    "data.prior.folder",
    "data.condition.detector",
    "data.condition.persons",
    "previews.hints",
    "validation.folder",
)


def from_widgets(
    *,
    base: str,
    folder: str,
    kind: str,
    preset: str,
    steps: int,
    resolution: int,
    caption: str,
    low_memory: bool,
    annotators: list[str],
) -> dict[str, Any]:
    """The configuration that the node's widgets mean; 0 steps are those of the preset."""
    style_steps, control_steps, keys = PRESETS[preset]
    steps = steps or (style_steps if kind == STYLE else control_steps)
    every = max(1, min(250, steps // 8))
    config: dict[str, Any] = {
        "base": base,
        "tuner": {"kind": "sc" if kind == STYLE else "csc"},
        "data": {"resolution": resolution, "captions": "optional", "caption": caption},
        "loop": {"steps": steps},
        "previews": {"every": every, "count": 2},
        "validation": {"every": every},
        "saving": {"every": max(1, min(500, steps // 4))},
        "tensorboard": False,
    }
    if folder:
        config["data"]["folder"] = folder
    if kind != STYLE:
        config["data"] |= {"condition": {"type": kind}, "annotators": annotators}
    if low_memory:
        config["memory"] = dict(_LOW_MEMORY)
    return merged(config, keys)


def from_file(path: str) -> dict[str, Any]:
    """A user's configuration, any part of the trainer's keys, with its paths made absolute.  Raises SCEditError."""
    if not path.lower().endswith((".yaml", ".yml")):
        raise SCEditError(
            f"config_file: expected a file that ends in .yaml or .yml, found {path}; rename it or clear the widget"
        )
    try:
        values = load_yaml(Path(path).read_text("utf-8"), path)
    except OSError as error:
        raise SCEditError(
            f"config_file: expected a YAML file at {path}, found none ({error.strerror}); correct the path or clear it"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # Where, and nothing of what stands there: any file of this machine may have been named.
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "what is no text"
        raise SCEditError(
            f"config_file: expected YAML in {path}, found something else at {where}; correct that line"
        ) from None
    if not isinstance(values, dict):
        raise SCEditError(
            f"{path}: expected keys of the trainer such as loop or data, found {type(values).__name__}; "
            "write keys and values"
        )
    folder = os.path.dirname(os.path.abspath(path))
    for key in PATHS:
        values = _with_paths(values, key.split("."), lambda each: os.path.join(folder, os.path.expanduser(each)))
    return values


def paths_in(path: str) -> list[str]:
    """The files and folders that a user's configuration names; none where it cannot be read."""
    try:
        values = from_file(path)
    except SCEditError:
        return []
    found: list[str] = []
    for key in PATHS:
        _with_paths(values, key.split("."), found.append)
    # Of shards, whose names are patterns, all that lie beside them.
    return [os.path.dirname(each) if "{" in each else each for each in found]


def with_file(config: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """The widgets' configuration with a file's keys in place of its own; `output` and `run` stay the node's."""
    both = merged(config, {key: value for key, value in file.items() if key not in ("output", "run")})
    loop = file.get("loop")
    if isinstance(loop, dict):
        kind = OPTIMIZERS.get(str(loop.get("optimizer")), OPTIMIZERS["adamw"])
        unfit = {
            "learning_rate": kind.rate != OPTIMIZERS["adamw"].rate,  # a preset's is meant for AdamW
            "ema": kind.own_mean,
            "steps": "epochs" in loop or "minutes" in loop,
        }
        for key in (key for key, out in unfit.items() if out and key not in loop):
            both["loop"].pop(key, None)
    weighed = file.get("objective")
    if isinstance(weighed, dict) and weighed.get("weighting", "equal") != "equal" and "min_snr_gamma" not in weighed:
        both["objective"].pop("min_snr_gamma", None)  # a preset's, and the trainer takes one weighting
    data, said = both.get("data"), file.get("data")
    said = said if isinstance(said, dict) else {}
    if isinstance(data, dict):
        if ("shards" in said or "folders" in said) and "folder" not in said:
            data.pop("folder", None)
        tuner = both.get("tuner")
        if isinstance(tuner, dict) and tuner.get("kind") == "sc" and "condition" not in said:
            data.pop("condition", None)
    return both


def write(config: Mapping[str, Any], path: Path) -> None:
    """Write the configuration as YAML.  Raises SCEditError where there is no room or no permission."""
    try:
        text = yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False)
        replace_file(path, lambda part: part.write_text(text, "utf-8"))
    except OSError as error:
        raise SCEditError(
            f"{path}: expected to write there, found {error.strerror}; free some space, or start ComfyUI with another "
            "output folder"
        ) from error


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section; where both have a value that of `over` stays."""
    both = dict(under)
    for key, value in over.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return both


def _with_paths(values: Any, keys: list[str], change: Callable[[str], Any]) -> Any:
    """`values` with what `change` makes of each path at a key; of other types the trainer says what is wrong."""
    if isinstance(values, list):
        return [_with_paths(each, keys, change) for each in values]
    if keys and isinstance(values, dict):
        return {**values, keys[0]: _with_paths(values[keys[0]], keys[1:], change)} if keys[0] in values else values
    return change(values) if not keys and isinstance(values, str) and "://" not in values else values
