"""Hints as a tuner was trained on: the options that the metadata of its file tells, and what makes such hints."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ConditionError
from ..weight_files import shown
from .annotators import ANNOTATORS, WEIGHTS, default_folder, installed_weights
from .canny import CannyOptions, canny
from .color_palette import ColorPaletteOptions, color_palette
from .depth import DepthOptions, depth, load_depth
from .fitting import fitting_of
from .hed import load_hed
from .pose import PoseOptions, load_joint_finder, load_person_finder, pose
from .random_masks import CompletionOptions, random_completion
from .segmentation import SegmentationOptions, load_segmentation, segmentation
from .soft_edge import SoftEdgeOptions, soft_edge

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

_LOADERS: dict[str, Callable[[Path], nn.Module]] = {
    "soft_edge": load_hed,
    "depth": lambda path: load_depth(path.parent),
    "people": lambda path: load_person_finder(path.parent),
    "pose": lambda path: load_joint_finder(path.parent),
    "segmentation": lambda path: load_segmentation(path.parent),
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


def trained_options(metadata: Mapping[str, str], by_hand: Options) -> Options:
    """The options of a tuner with this metadata; `by_hand` where it does not name its condition.

    by_hand: the options set by hand, of the condition that is to be made.  Detectors that the metadata does not name
    are theirs.  Raises ConditionError where the tuner was trained on another condition, or its metadata says something
    that such options cannot be.
    """
    said = trained_condition(metadata)
    if said is None:
        return by_hand
    name = next(name for name, kind in OPTIONS.items() if kind is type(by_hand))
    if said["type"] != name:
        raise ConditionError(
            f"csc_tuner: expected a tuner trained on {name}, found one trained on {said['type'][:40]!r}; "
            "make that condition for it"
        )
    detectors = {
        each.name: getattr(by_hand, each.name)
        for each in dataclasses.fields(by_hand)
        if each.name.endswith("detector") and said.get(each.name) is None
    }
    return options_of(said | detectors)


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


class HintMaker:
    """Calling it makes hints: images [B,H,W,C] in 0..1 -> float [B,H,W,3] in 0..1 on their device.

    condition: its type, all of its options and its fitting, for the metadata of a tuner that is trained on these hints;
               detectors whose place was told have no name there.
    mirrors:   whether the hint of a mirrored picture is the mirrored hint; not so for poses, whose left and right have
               colours of their own.
    """

    def __init__(self, condition: dict[str, Any], make: Callable[[Tensor], Tensor]) -> None:
        self.condition, self._make = condition, make
        self.mirrors = condition["type"] != "pose"

    def __call__(self, images: Tensor) -> Tensor:
        """Raises ConditionError for images that the condition refuses."""
        return self._make(images)


def hint_maker(
    condition: Mapping[str, Any],
    detectors: Mapping[str, str | os.PathLike | None] | None = None,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    roots: Iterable[str | os.PathLike] | None = None,
) -> HintMaker:
    """What makes the hints of a condition, as `scedit.condition` in a tuner's metadata says.

    condition: such as {"type": "canny", "low": 100}; the types are canny, soft_edge, depth, pose, segmentation,
               color_palette and completion, the options those of their classes, and the defaults the authors'.
    detectors: where detectors lie, by what they find: soft_edge, depth, people, pose, segmentation.  A folder of
               transformers or a weight file.  Those that are not told are looked for in `roots`.
    device:    where detectors run; the hints are on the device of the images.
    generator: on the CPU, for completion, which draws what is missing anew at each call.
    roots:     folders of detectors, by default models/scedit_annotators of the host or of the current folder.

    Detectors are loaded here, once.  Raises ConditionError for an unknown type, options out of bounds, and detectors
    that are missing or damaged: the sentence says which file is wanted, and where to take it.
    """
    options, kind = options_of(condition), condition["type"]
    roots = [default_folder()] if roots is None else list(roots)

    def found(what: str, name: str) -> nn.Module:
        given = (detectors or {}).get(what)
        path = installed_weights(name, roots) if given is None else _given_weights(Path(given), name)
        return _LOADERS[what](path).to(device)

    if kind == "canny":
        make = partial(canny, options=options)
    elif kind == "color_palette":
        make = partial(color_palette, options=options)
    elif kind == "completion":
        make = partial(random_completion, options=options, generator=generator)
    elif kind == "soft_edge":
        make = partial(soft_edge, network=found(kind, "hed"), options=options, device=device)
    elif kind == "depth":
        make = partial(depth, network=found(kind, options.detector), options=options, device=device)
    elif kind == "segmentation":
        make = partial(segmentation, network=found(kind, options.detector), device=device)
    else:
        finders = {"people": found("people", options.person_detector), "joints": found("pose", options.detector)}
        make = partial(pose, **finders, options=options, device=device)
    said = {"type": kind, **dataclasses.asdict(options)}
    for option, what in (("detector", kind), ("person_detector", "people")):
        if (detectors or {}).get(what) is not None:
            said.pop(option, None)
    return HintMaker(said | fitting_of(said).said(), make)


def _given_weights(path: Path, name: str) -> Path:
    """The weight file at a path that was given: the file itself, or one in the folder."""
    if path.is_file():
        return path
    names = ANNOTATORS[name].weights if name in ANNOTATORS else WEIGHTS
    for each in names:
        if (path / each).is_file():
            return path / each
    raise ConditionError(
        f"{shown(path)}: expected a detector's {' or '.join(names)}, found no such file; correct the path"
    )
