"""A base model in a single checkpoint file, converted by diffusers under configs derived from its shapes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from scedit_core.errors import BaseModelError, in_short

from .checkpoint_header import UNET, CheckpointHeader
from .recognising import SD2, SDXL, VAE, Recognised, has_zero_terminal_snr, prediction_of, recognise
from .shapes import UnknownShapeError, clip_config, size_embedding, unet_config, vae_config
from .tokenizer_files import find_tokenizer, load_tokenizer

CONFIGS = Path(__file__).with_name("configs")


def load_single_file(
    path: Path, dtypes: dict[str, torch.dtype], tokenizer: Path | None, allow_download: bool
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The pipeline in a file, its parts in `dtypes` ("unet", "vae", "default" for text encoders), on the CPU.

    Raises BaseModelError where it is no base model, is damaged, or has a shape that diffusers cannot express.
    """
    header = CheckpointHeader(path)
    found = recognise(header)
    folder = find_tokenizer(path, tokenizer, allow_download)
    try:
        configs = configs_of(header, found)
    except UnknownShapeError as error:
        raise BaseModelError(f"{path}: expected {error}; choose another checkpoint") from error
    except KeyError as error:
        raise _incomplete(path, f"one without {error}") from error
    parts = {}
    for encoder in sorted(name for name in configs if name.startswith("text_encoder")):
        made = load_tokenizer(folder, configs[encoder])
        configs[encoder]["eos_token_id"] = made.eos_token_id  # SDXL's pooled state is the one at the first of these
        parts[encoder.replace("text_encoder", "tokenizer")] = made
    try:
        with tempfile.TemporaryDirectory() as written:
            _write(configs, Path(written))
            parts |= _load_parts(header, found, written, dtypes)
    except Exception as error:  # whatever the libraries below raise, it is a broken or unusual file
        raise _incomplete(path, f"one that fails to load ({in_short(error)})") from error
    if found.family == SDXL:
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def configs_of(header: CheckpointHeader, found: Recognised) -> dict[str, dict[str, Any]]:
    """Configs by part, those of the family with what the shapes say put in.  Raises UnknownShapeError, KeyError."""
    configs = {p.parent.name: json.loads(p.read_text("utf-8")) for p in (CONFIGS / found.family).glob("*/*.json")}
    for number, prefix in enumerate(found.text):
        text = configs["text_encoder_2" if number else "text_encoder"]
        text |= clip_config(header.below(prefix))
        if found.family == SD2:
            text["num_hidden_layers"] = _layers_used(text["num_hidden_layers"])
    unet = header.below(UNET)
    configs["unet"] |= unet_config(unet)
    if found.family == SDXL:
        configs["unet"] |= size_embedding(unet, configs["text_encoder_2"]["projection_dim"])
    configs["vae"] |= vae_config(header.below(VAE))
    scheduler = configs["scheduler"]
    scheduler["prediction_type"] = prediction_of(header, found.family)
    scheduler["rescale_betas_zero_snr"] = has_zero_terminal_snr(header)
    return configs


def _write(configs: dict[str, dict[str, Any]], folder: Path) -> None:
    for part, config in configs.items():
        (folder / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config), "utf-8")


def _load_parts(
    header: CheckpointHeader, found: Recognised, configs: str, dtypes: dict[str, torch.dtype]
) -> dict[str, Any]:
    """Modules and scheduler by the names that the pipeline gives them."""
    parts: dict[str, Any] = {}
    for name, kind, prefix in (("unet", UNet2DConditionModel, UNET), ("vae", AutoencoderKL, VAE)):
        parts[name] = kind.from_single_file(
            header.read(n for n in header.shapes if n.startswith(prefix)),
            config=configs,
            subfolder=name,
            dtype=dtypes[name],
            local_files_only=True,
        )
    for number, prefix in enumerate(found.text):
        name = "text_encoder_2" if number else "text_encoder"
        parts[name] = create_diffusers_clip_model_from_ldm(
            CLIPTextModelWithProjection if number else CLIPTextModel,
            _text_weights(header, found, prefix),
            subfolder=name,
            config=configs,
            torch_dtype=dtypes["default"],
            local_files_only=True,
        )
    parts["scheduler"] = DDIMScheduler.from_pretrained(configs, subfolder="scheduler", local_files_only=True)
    return parts


def _text_weights(header: CheckpointHeader, found: Recognised, prefix: str) -> dict[str, Tensor]:
    """Weights of a text encoder; of SD 2.x without the last layer and what follows it."""
    names = [name for name in header.shapes if name.startswith(prefix)]
    if found.family == SD2:
        layers = clip_config(header.below(prefix))["num_hidden_layers"]
        unused = tuple(f"{prefix}transformer.resblocks.{n}." for n in range(_layers_used(layers), layers))
        names = [n for n in names if not n.startswith(unused) and not n.endswith("text_projection")]
    return header.read(names)


def _layers_used(layers: int) -> int:
    """SD 2.x reads the states before OpenCLIP's last layer, the 24th, which some files have not."""
    return min(layers, 23) if layers >= 23 else layers - 1


def _incomplete(path: Path, found: str) -> BaseModelError:
    return BaseModelError(f"{path}: expected a whole checkpoint, found {found}; download it again")
