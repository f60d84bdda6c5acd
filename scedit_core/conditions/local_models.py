"""Models of transformers in local folders: config.json, preprocessor_config.json and weights.  Never the network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConditionError
from ..weight_files import first_line, shown

_LONGEST = 4  # times the short side: a strip of a few rows would else become a picture that no memory holds


def bad_folder(folder: Path, expected: str, error: Exception) -> ConditionError:
    """The error for a folder of a detector that cannot be read."""
    return ConditionError(
        f"{shown(folder)}: expected {expected}, found a folder that cannot be read as such; download it again "
        f"({first_line(error)})"
    )


def load_local(
    auto_class: str, folder: Path, unused: Iterable[str] = (), processor: bool = True
) -> tuple[nn.Module, Any]:
    """A model on the CPU in float32, in evaluation mode, and its image processor.

    auto_class: the name in transformers, such as AutoModelForDepthEstimation.
    unused:     beginnings of names of weights that may be missing, because the model never uses them.
    processor:  whether it is wanted; else it is None.

    Raises ConditionError for a folder whose files are damaged, are of another kind of model, or lack weights, and for
    a transformers that is missing or too old.
    """
    try:
        import transformers

        kind = getattr(transformers, auto_class)
    except (ImportError, AttributeError) as error:
        raise ConditionError(
            f"transformers: expected a version that has {auto_class}, found none; install it with the next line\n"
            f"python -m pip install --upgrade transformers\n({first_line(error)})"
        ) from error
    try:
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        images = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True) if processor else None
    except Exception as error:  # whatever a damaged folder makes transformers raise, it is a bad folder
        raise bad_folder(folder, f"a model for {auto_class}", error) from error
    missing = sorted(k for k in report["missing_keys"] if not k.startswith(tuple(unused)))
    if missing:  # transformers fills them with noise
        raise ConditionError(
            f"{shown(folder)}: expected all weights of its config.json, found {len(missing)} missing; download it "
            f"again ({first_line(missing[0])})"
        )
    return model.float().eval().requires_grad_(False), images


def resized(pictures: Tensor, short_side: int, multiple: int) -> Tensor:
    """Pictures [B,3,H,W] in 0..1 with `short_side` as their short side, and both sides multiples of `multiple`."""
    height, width = pictures.shape[-2:]
    scale = short_side / min(height, width)
    size = [max(1, round(min(side * scale, _LONGEST * short_side) / multiple)) * multiple for side in (height, width)]
    if size == [height, width]:
        return pictures
    return F.interpolate(pictures, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
