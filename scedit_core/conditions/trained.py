"""`hint: auto`: the options with which a tuner's hints were made, as the metadata of its file says.

Making those hints is the work of hint_making.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import ConditionError
from .canny import CannyOptions
from .color_palette import ColorPaletteOptions
from .depth import DepthOptions
from .pose import PoseOptions
from .random_masks import CompletionOptions
from .segmentation import SegmentationOptions
from .soft_edge import SoftEdgeOptions

Options = TypeVar("Options")
KEY = "scedit.condition"
# What the metadata calls a condition, and its options.
OPTIONS: dict[str, type] = {
    "canny": CannyOptions,
    "color_palette": ColorPaletteOptions,
    "completion": CompletionOptions,
    "depth": DepthOptions,
    "pose": PoseOptions,
    "segmentation": SegmentationOptions,
    "soft_edge": SoftEdgeOptions,
}


def trained_condition(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What `scedit.condition` says, such as {"type": "canny", "low": 100}; None where nothing is said.

    A bare word is a condition without options.  Raises ConditionError for anything else.
    """
    text = metadata.get(KEY)
    if not text:
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = {"type": text}
    said = {"type": said} if isinstance(said, str) else said
    if not isinstance(said, dict) or not isinstance(said.get("type"), str):
        raise ConditionError(
            f'metadata {KEY}: expected JSON such as {{"type": "canny"}}, found {text[:80]!r}; '
            "disconnect the tuner and set the options by hand"
        )
    return said


def trained_options(metadata: Mapping[str, str], wanted: type[Options]) -> Options | None:
    """The options of a tuner with this metadata, or None where it does not name its condition.

    wanted: the class of the condition that is to be made.  Raises ConditionError where the tuner was trained on
    another condition, or its metadata says something that such options cannot be.
    """
    said = trained_condition(metadata)
    if said is None:
        return None
    name = next(name for name, kind in OPTIONS.items() if kind is wanted)
    if said["type"] != name:
        raise ConditionError(
            f"csc_tuner: expected a tuner trained on {name}, found one trained on {said['type'][:40]!r}; "
            "make that condition for it"
        )
    return options_of(said)


def options_of(condition: Mapping[str, Any]) -> Any:
    """The options of a condition such as {"type": "canny", "low": 100}, of the class that `OPTIONS` has for its type.

    What is not said, or None, has its default; names that are no options are passed over.  Raises ConditionError for
    an unknown type, and for values that such options cannot have.
    """
    name = condition["type"]
    if name not in OPTIONS:
        raise ConditionError(
            f"condition: expected one of {', '.join(OPTIONS)}, found {name[:40]!r}; choose one of them"
        )
    given = {}
    for each in dataclasses.fields(OPTIONS[name]):
        value = condition.get(each.name)
        if value is not None:
            given[each.name] = _as(type(each.default), value, f"{name} {each.name}")
    return OPTIONS[name](**given)


def _as(kind: type, value: Any, name: str) -> Any:
    """A value of JSON as the kind that an option has."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    if kind is float and number and math.isfinite(value):
        return float(value)
    if type(value) is kind and (number or kind is not int):
        return value
    raise ConditionError(
        f"{name} in metadata {KEY}: expected {kind.__name__}, found {str(value)[:40]!r}; "
        "disconnect the tuner and set the options by hand"
    )
