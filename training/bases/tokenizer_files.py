"""CLIP's tokenizer: no checkpoint file holds one, so its files are looked for on this computer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import CLIPTokenizer

from scedit_core.errors import BaseModelError, in_short

_FILES = ("vocab.json", "merges.txt")
_HOST = Path("comfy") / "sd1_tokenizer"  # in a ComfyUI checkout
_HOMES = "~/ComfyUI, ~/comfy/ComfyUI*"
_PACK = Path(__file__).absolute().parents[2]
_OPEN_CLIP_PAD = "!"  # token 0, with which OpenCLIP pads; CLIP pads with its end
# Repositories whose files a local hub cache may hold; all have the one vocabulary of CLIP.
_HUB = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer/"),
    ("CompVis/stable-diffusion-v1-4", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1-base", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
)


def load_tokenizer(folder: Path, config: Mapping[str, Any]) -> CLIPTokenizer:
    """The tokenizer in `folder` as the text encoder with this `config` was trained with it.

    OpenCLIP's text encoders (SD 2.x, and SDXL's second) have another padding than CLIP's; their activation tells them.
    Raises BaseModelError for files that cannot be read, or with more words than the text encoder knows.
    """
    length, words = config.get("max_position_embeddings", 77), config.get("vocab_size", 49408)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=length)
    except Exception as error:  # the libraries below raise what they like for broken JSON
        raise BaseModelError(
            f"{folder}: expected a CLIP tokenizer (vocab.json, merges.txt), found one that fails to load "
            f"({in_short(error)}); replace these files"
        ) from error
    if len(tokenizer) > words:
        raise BaseModelError(
            f"{folder}: expected a tokenizer of at most the {words} words that the text encoder knows, "
            f"found {len(tokenizer)}; choose CLIP's tokenizer"
        )
    if config.get("hidden_act") == "gelu":
        tokenizer.pad_token = _OPEN_CLIP_PAD
    return with_plain_pad(tokenizer)


def with_plain_pad(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """The tokenizer, or one that reads an exclamation mark in a caption as hosts do: as a mark, not as padding.

    Where files name "!" as the padding of SD 2.x and SDXL, transformers takes each one in a text for it.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if _OPEN_CLIP_PAD not in special or special - {_OPEN_CLIP_PAD, tokenizer.bos_token, tokenizer.eos_token}:
        return tokenizer
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    fresh = CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=tokenizer.model_max_length)
    fresh.pad_token = tokenizer.pad_token
    return fresh


def find_tokenizer(base: Path, chosen: Path | None = None, allow_download: bool = False) -> Path:
    """The folder of CLIP's tokenizer for a base model without one.

    Looked for in `chosen` alone, where it is given; else beside the base, in ComfyUI checkouts (in COMFYUI_PATH, above
    the base, above this pack, in the home folder), in the local hub cache; and on the hub, if that is allowed.
    Raises BaseModelError with all places searched.
    """
    if chosen is not None:
        for folder in (chosen, chosen / "tokenizer", chosen / _HOST):
            if _is_tokenizer(folder):
                return folder
        raise BaseModelError(
            f"{chosen}: expected a folder with {' and '.join(_FILES)}, found none; correct the key tokenizer"
        )
    for folder in (*_beside(base), *(host / _HOST for host in host_folders(base))):
        if _is_tokenizer(folder):
            return folder
    cached = _in_hub_cache()
    if cached is not None:
        return cached
    if allow_download:
        return _download()
    named = os.environ.get("COMFYUI_PATH")
    raise BaseModelError(
        f"{base}: expected CLIP's tokenizer ({', '.join(_FILES)}) on this computer, found none in {_beside(base)[0]}, "
        f"as {_HOST.as_posix()} in {f'COMFYUI_PATH ({named})' if named else 'COMFYUI_PATH (not set)'}, in the folders "
        f"above the base and above {_PACK}, in {_HOMES}, nor in the hub cache {HF_HUB_CACHE}; set COMFYUI_PATH to a "
        "ComfyUI checkout, set tokenizer to a folder that has it, or allow its download with --allow-download"
    )


def _is_tokenizer(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES) or (folder / "tokenizer.json").is_file()


def _beside(base: Path) -> list[Path]:
    return [(base if base.is_dir() else base.parent) / "tokenizer"]


def host_folders(base: Path) -> list[Path]:
    """Where ComfyUI may be: what COMFYUI_PATH names, the folders above `base` and this pack, and usual places."""
    named = [Path(p).expanduser() for p in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if p]
    home = Path.home()
    usual = [home / "ComfyUI", *sorted((home / "comfy").glob("ComfyUI*"))]
    return [*named, *base.absolute().parents, *_PACK.parents, *usual]


def _in_hub_cache() -> Path | None:
    for repository, folder in _HUB:
        found = [try_to_load_from_cache(repository, folder + name) for name in _FILES]
        if all(isinstance(path, str) for path in found):
            return Path(found[0]).parent
    return None


def _download() -> Path:
    repository, _ = _HUB[0]
    try:
        paths = [hf_hub_download(repository, name) for name in _FILES]
        return Path(paths[0]).parent
    except Exception as error:  # no network, a proxy, a refusal: each with its own error
        raise BaseModelError(
            f"{repository}: expected CLIP's tokenizer on the hub, found no way to get it ({in_short(error)}); "
            "set tokenizer to a folder that has it"
        ) from error
