"""Hints as a tuner's metadata describes them: one entry for training, whatever the condition."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConditionError
from ..weight_files import shown
from .annotators import ANNOTATORS, WEIGHTS, default_folder, installed_weights
from .canny import canny
from .color_palette import color_palette
from .depth import depth, load_depth
from .hed import load_hed
from .pose import load_joint_finder, load_person_finder, pose
from .random_masks import random_completion
from .segmentation import load_segmentation, segmentation
from .soft_edge import soft_edge
from .trained import options_of

_LOADERS: dict[str, Callable[[Path], nn.Module]] = {
    "soft_edge": load_hed,
    "depth": lambda path: load_depth(path.parent),
    "people": lambda path: load_person_finder(path.parent),
    "pose": lambda path: load_joint_finder(path.parent),
    "segmentation": lambda path: load_segmentation(path.parent),
}


class HintMaker:
    """Calling it makes hints: images [B,H,W,C] in 0..1 -> float [B,H,W,3] in 0..1 on their device.

    condition: its type and all of its options, for the metadata of a tuner that is trained on these hints; detectors
               whose place was told have no name there.
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
    said = {"type": kind, **asdict(options)}
    for option, what in (("detector", kind), ("person_detector", "people")):
        if (detectors or {}).get(what) is not None:
            said.pop(option, None)
    return HintMaker(said, make)


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
