"""Settings for a first run, from what is found of the base, the pictures and the GPU."""

from __future__ import annotations

import json
import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scedit_core.errors import BaseModelError, DataError
from scedit_core.pictures.finding import find_candidates
from scedit_core.pictures.reading import measure

from .bases.checkpoint_header import CheckpointHeader
from .bases.recognising import SD2, SD15, SDXL, prediction_of, recognise
from .bases.tokenizer_files import host_folders
from .config_file import parse_config

STYLE, SUBJECT = "style", "subject"
CONTROLS = ("canny", "soft_edge", "depth", "pose", "segmentation", "color_palette", "completion")
OWN_HINTS = "own_hints"
LEARNABLE = (STYLE, SUBJECT, *CONTROLS, OWN_HINTS)
_TITLES = {SD15: "Stable Diffusion 1.5", SD2: "Stable Diffusion 2", SDXL: "SDXL"}
_WIDTHS = {768: SD15, 1024: SD2, 2048: SDXL}  # of the text states that a U-Net reads
_MEASURED = 500  # pictures, evenly chosen
# MiB: the U-Net in 16 bits; what a picture of a control keeps for the backward pass at the base's own size, and with
# checkpointing, with room for what kernels take, which is not measured yet;
# the tuner of a style and of a control with its optimiser.  Counted in benchmarks/.
_UNET = {SD15: 1640, SD2: 1650, SDXL: 4900}
_KEPT = {SD15: (499, 120), SD2: (1124, 270), SDXL: (2985, 678)}
_TUNER = {SD15: (300, 440), SD2: (300, 440), SDXL: (150, 240)}
_COUNTED_AT = {SD15: 512, SD2: 768, SDXL: 1024}
_BESIDE = 1800  # MiB that the libraries, buffers and a decoded preview take


@dataclass(frozen=True)
class Base:
    """A base model as its header tells it.  family: the known one that it is most like.  size: side of the pictures
    that it was trained on.  what: the family's name, or what it is instead."""

    path: Path
    family: str
    size: int
    what: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.what}, {self.path.name}"


@dataclass(frozen=True)
class Pictures:
    """What is in a folder: how many, how many with captions, and the median of their sides."""

    count: int
    captioned: int
    side: int


@dataclass(frozen=True)
class Proposal:
    """Settings, and why: the comment on each line."""

    base: Base
    learn: str
    folder: Path
    hints: Path | None
    resolution: int
    captions: str
    steps: int
    batch: int
    accumulate: int
    checkpointing: bool
    fp8: bool
    eight_bit: bool
    hold_out: int
    why: dict[str, str]

    @property
    def kind(self) -> str:
        """sc or csc."""
        return "sc" if self.learn in (STYLE, SUBJECT) else "csc"


def known_base(path: Path) -> Base:
    """What a checkpoint file or a diffusers folder is.  Raises BaseModelError where it can be no base."""
    path = Path(os.path.abspath(path.expanduser()))
    if not path.is_dir():
        header = CheckpointHeader(path)
        family = recognise(header).family
        size = {SD15: 512, SD2: 768 if prediction_of(header, family) == "v_prediction" else 512, SDXL: 1024}[family]
        return Base(path, family, size, _TITLES[family])
    try:
        unet = json.loads((path / "unet" / "config.json").read_text("utf-8"))
        size = 8 * int(unet["sample_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseModelError(
            f"{path}: expected a diffusers folder with unet/config.json, found none that can be read "
            f"({type(error).__name__}); choose another base"
        ) from error
    family = _WIDTHS.get(unet.get("cross_attention_dim"))
    return Base(path, family or SD15, size, _TITLES.get(family, "a model of its own"))


def bases_around(start: Path) -> list[Base]:
    """Checkpoints that can be bases, in the ComfyUI folders of this computer and in the folder `start`."""
    found: dict[Path, Base] = {}
    folders = [start, *(host / "models" / "checkpoints" for host in host_folders(start))]
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors") if folder != start else folder.glob("*.safetensors")):
            try:
                found.setdefault(path.resolve(), known_base(path))
            except BaseModelError:
                continue
    return list(found.values())


def look_at(folder: Path, learn: str, hints: Path | None) -> Pictures:
    """Count and measure the pictures of a folder.  Raises DataError where there are none."""
    data: dict[str, Any] = {"folder": str(folder), "captions": "optional"}
    if learn in CONTROLS:
        data["condition"] = {"type": learn}
    elif learn == OWN_HINTS:
        data |= {"condition": {"type": "custom", "name": "own"}, "hints": str(hints)}
    kind = "csc" if "condition" in data else "sc"
    config = parse_config({"base": ".", "output": "none.safetensors", "tuner": {"kind": kind}, "data": data})
    candidates = find_candidates(config).candidates
    stride = max(1, len(candidates) // _MEASURED)
    sides = []
    for each in candidates[::stride]:
        try:
            width, height = measure(each.path, each.path).size
        except DataError:
            continue
        sides.append(math.sqrt(width * height))
    if not sides:
        raise DataError(f"{folder}: expected pictures that can be read, found none; choose another folder")
    captioned = sum(each.caption is not None for each in candidates)
    return Pictures(len(candidates), captioned, round(statistics.median(sides)))


def gpu_memory() -> float | None:
    """GiB of the GPU here, None where there is none."""
    return torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else None


def needed_mib(base: Base, learn: str, batch: int, resolution: int, checkpointing: bool, fp8: bool) -> float:
    """What a run needs of a GPU, in MiB, by what was counted for each base."""
    kept = _KEPT[base.family][checkpointing] * (resolution / _COUNTED_AT[base.family]) ** 2
    return (
        _UNET[base.family] / (2 if fp8 else 1)
        + _TUNER[base.family][learn not in (STYLE, SUBJECT)]
        + (batch * kept + _BESIDE)
    )


def propose(
    base: Base, learn: str, folder: Path, found: Pictures, memory: float | None, hints: Path | None = None
) -> Proposal:
    """Settings for a first run.  memory: GiB of the GPU, None for training on the processor."""
    why: dict[str, str] = {}
    resolution = base.size
    why["resolution"] = "what the base was trained at"
    if found.side < resolution:
        resolution = max(64, resolution // 2, found.side // 64 * 64)
        why["resolution"] = f"for pictures of {found.side} px in the middle; the base was trained at {base.size}"
    captions = "none" if not found.captioned else "required" if found.captioned == found.count else "optional"
    why["captions"] = f"{found.captioned} of {found.count} pictures have one"
    control = learn not in (STYLE, SUBJECT)
    together = 8 if control else 4
    saved = _least_saving(base, learn, together, resolution, memory)
    batch, checkpointing, fp8, eight_bit = saved
    why["memory"] = (
        "for the processor, slowly: a rehearsal rather than a training"
        if memory is None
        else f"about {needed_mib(base, learn, batch, resolution, checkpointing, fp8) / 1024:.1f} of {memory:.0f} GiB"
    )
    most, least, wanted = (20000, 4000, 20 * found.count // together) if control else (3000, 600, 50 * found.count)
    steps = min(most, max(least, wanted))
    why["steps"] = f"each of the {found.count} pictures is seen about {steps * together / found.count:.0f} times"
    hold_out = min(16 if control else 8, found.count // 10)
    return Proposal(
        *(base, learn, folder, hints, resolution, captions, steps, batch, math.ceil(together / batch)),
        *(checkpointing, fp8, eight_bit, hold_out, why),
    )


def _least_saving(
    base: Base, learn: str, together: int, resolution: int, memory: float | None
) -> tuple[int, bool, bool, bool]:
    """Batch, checkpointing, 8-bit weights and 8-bit optimiser: the first that fits, the fastest first."""
    if memory is None:
        return 1, False, False, False
    room = 0.92 * memory * 1024
    for checkpointing, fp8 in ((False, False), (True, False), (True, True)):
        for batch in (together, together // 2, together // 4, 1):
            if batch and needed_mib(base, learn, batch, resolution, checkpointing, fp8) <= room:
                return batch, checkpointing, fp8, fp8
            if not checkpointing and batch <= together // 2:
                break  # before batches get small, time is better given for memory
    return 1, True, True, True
