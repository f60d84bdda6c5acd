"""A base model in diffusers' folder layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from scedit_core.errors import BaseModelError, in_short

from .tokenizer_files import find_tokenizer, load_tokenizer, with_plain_pad

_KINDS = {
    "StableDiffusionPipeline": StableDiffusionPipeline,
    "StableDiffusionXLPipeline": StableDiffusionXLPipeline,
}
_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def load_folder(
    path: Path, dtypes: dict[str, torch.dtype], tokenizer: Path | None, allow_download: bool
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The pipeline in a folder, its parts in `dtypes` ("unet", "vae", "default" for text encoders), on the CPU.

    Raises BaseModelError where there is none, it is of another kind, or it fails to load.
    """
    parts = _index(path)
    kind = parts.get("_class_name")
    if kind not in _KINDS:
        raise BaseModelError(
            f"{path}: expected a StableDiffusionPipeline or StableDiffusionXLPipeline, found {kind}; "
            "choose an SD 1.5, SD 2.x or SDXL base"
        )
    try:
        pipeline = _KINDS[kind].from_pretrained(
            path,
            dtype=dtypes,
            local_files_only=True,
            use_safetensors=True,
            variant=_variant(path),
            **{name: None for name in _UNUSED if name in parts},
            **({"requires_safety_checker": False} if kind == "StableDiffusionPipeline" else {}),
            **_tokenizers(path, parts, tokenizer, allow_download),
            **_text_encoders(path, parts, dtypes["default"]),
        )
    except BaseModelError:
        raise
    except Exception as error:  # whatever the libraries below raise, it is a broken folder
        raise BaseModelError(
            f"{path}: expected a whole base model, found one that fails to load ({in_short(error, 200)}); "
            "get its missing or damaged files again, weights as .safetensors"
        ) from error
    _check_unet(path, pipeline)
    for name in ("tokenizer", "tokenizer_2"):
        if isinstance(getattr(pipeline, name, None), CLIPTokenizer):
            setattr(pipeline, name, with_plain_pad(getattr(pipeline, name)))
    return pipeline


def _index(path: Path) -> dict:
    index = path / "model_index.json"
    if not index.is_file():
        raise BaseModelError(
            f"{path}: expected a diffusers folder with model_index.json, found none; give the folder of a base model, "
            "or a .safetensors checkpoint"
        )
    try:
        parts = json.loads(index.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{index}: expected JSON, found something else ({in_short(error, 120)}); get this file again"
        ) from error
    return parts if isinstance(parts, dict) else {}


def _variant(path: Path) -> str | None:
    """ "fp16" where the folder has its weights under such names only."""
    unet = path / "unet"
    plain = any(unet.glob("diffusion_pytorch_model.safetensors*"))
    return "fp16" if not plain and any(unet.glob("diffusion_pytorch_model.fp16*.safetensors")) else None


def _tokenizers(path: Path, parts: dict, chosen: Path | None, allow_download: bool) -> dict:
    """Tokenizers in place of those that the folder has not, or of all where one is chosen."""
    found = {}
    for name, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        if name not in parts or (chosen is None and (path / name).is_dir()):
            continue
        config = json.loads((path / encoder / "config.json").read_text("utf-8"))
        found[name] = load_tokenizer(find_tokenizer(path, chosen, allow_download), config)
    return found


def _text_encoders(path: Path, parts: dict, dtype: torch.dtype) -> dict[str, CLIPTextModel]:
    """The text encoders, of which transformers would fill in missing weights at random without a word."""
    loaded = {}
    for name, kind in _ENCODERS.items():
        if parts.get(name, [None])[0] is None:
            continue
        loaded[name], told = kind.from_pretrained(
            path / name,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            variant=_variant(path),
            output_loading_info=True,
        )
        missing = sorted(told["missing_keys"])
        if missing:
            raise BaseModelError(
                f"{path / name}: expected a whole text encoder, found {len(missing)} weights missing, the first "
                f"{missing[0]}; get its .safetensors file again"
            )
    return loaded


def _check_unet(path: Path, pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline) -> None:
    config = pipeline.unet.config
    if config.in_channels != 4:
        raise BaseModelError(
            f"{path}: expected a U-Net of 4 input channels, found {config.in_channels} (inpainting or editing); "
            "train on the model it was made from"
        )
    if pipeline.text_encoder is None:
        raise BaseModelError(
            f"{path}: expected a base model with all its text encoders, found one without the first; "
            "choose the base model, not its refiner"
        )
    if config.addition_embed_type not in (None, "text_time") or config.class_embed_type is not None:
        raise BaseModelError(
            f"{path}: expected a U-Net told of text and sizes alone, found one with "
            f"{config.addition_embed_type or config.class_embed_type} conditions; choose an SD 1.5, SD 2.x or SDXL base"
        )
