"""What the heads of a base's files say: what does not fit it is refused before anybody waits for its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scedit_core import SkipLayout
from scedit_core.fitting.new_tuner import new_tuner
from scedit_core.fitting.optimizing import grouped

from ..config import TrainConfig
from .checkpoint_header import CheckpointHeader
from .recognising import SDXL, recognise
from .separate_vae import check_vae
from .shapes import UnknownShapeError
from .single_file import configs_of
from .text_encoding import layer_of


@dataclass(frozen=True)
class Head:
    """unet: its config as diffusers has it.  text_layers: of the first text encoder.  sdxl: whether it is one."""

    unet: dict[str, Any]
    text_layers: int
    sdxl: bool


def check_against_base(config: TrainConfig, swept: Iterable[TrainConfig] = ()) -> None:
    """Raise BaseModelError or ConfigError where the base is none, as far as its head says, or where VAE, clip skip,
    blocks or their rates do not fit it.

    swept: the same with other shapes of the tuner, or other rates.

    A base that does not lie on this disk is left to `load_base`, and so is what a head does not tell.
    """
    head = _head(config.base)
    if head is None:
        return
    layout = SkipLayout.from_diffusers(head.unet)
    layer_of(config.text.clip_skip, head.text_layers, head.sdxl, layout.family)
    if config.vae is not None:
        check_vae(config.vae, head.unet["in_channels"])
    if config.tuner.start_from:  # whose file gives all of them their shape
        grouped(new_tuner(config.tuner, layout, config.loop.seed), config.loop)
        return
    with torch.device("meta"):
        for each in (config, *swept):
            grouped(new_tuner(each.tuner, layout, each.loop.seed), each.loop)


def _head(path: Path) -> Head | None:
    """None where there is no such file or folder, or it does not tell."""
    if path.is_file():
        header = CheckpointHeader(path)
        found = recognise(header)
        try:
            configs = configs_of(header, found)
        except (UnknownShapeError, KeyError):
            return None
        return Head(configs["unet"], configs["text_encoder"]["num_hidden_layers"], found.family == SDXL)
    try:
        kind = json.loads((path / "model_index.json").read_text("utf-8"))["_class_name"]
        unet, text = (json.loads((path / part / "config.json").read_text("utf-8")) for part in ("unet", "text_encoder"))
        head = Head(unet, int(text["num_hidden_layers"]), kind == "StableDiffusionXLPipeline")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return head if isinstance(unet, dict) and "in_channels" in unet and "block_out_channels" in unet else None
