"""`load_base`: a base model from a diffusers folder, a single checkpoint file, or the local hub cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from huggingface_hub import snapshot_download

from scedit_core import SkipLayout
from scedit_core.errors import BaseModelError, in_short

from ..config_data import TextConfig
from .base_model import BaseModel
from .folder import load_folder
from .separate_vae import load_vae
from .single_file import load_single_file
from .text_encoding import TextOptions, layer_of

Prediction = Literal["auto", "epsilon", "v_prediction"]
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# All that a folder in diffusers' layout needs, and no second copy of the weights in another format.
_DOWNLOADED = (
    "*.json",
    "*/*.json",
    "*/*.txt",
    "*/diffusion_pytorch_model.safetensors",
    "text_encoder*/model.safetensors",
)


def load_base(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    prediction: Prediction = "auto",
    tokenizer: str | Path | None = None,
    vae_dtype: torch.dtype = torch.float32,
    unet_device: str | torch.device | None = None,
    text: TextConfig | None = None,
    vae: Path | None = None,
    allow_download: bool = False,
) -> BaseModel:
    """Load a frozen base model: SD 1.5, SD 2.x or SDXL.

    path:           a folder in diffusers' layout, a .safetensors checkpoint, or owner/name of a repository in the
                    local hub cache.
    dtype:          of the U-Net; text encoders have `text_dtype`.
    prediction:     what the U-Net predicts; "auto" as scheduler, file or weights say.
    tokenizer:      folder of CLIP's tokenizer, in place of the one that is found.
    vae_dtype:      float32 or bfloat16; in float16 SDXL's VAE overflows.
    unet_device:    where the U-Net goes, if not to `device`: on a small GPU it can wait until all is cached.
    text:           how captions are encoded, if not as the base's own pipeline does.
    vae:            a VAE in place of the base's own.
    allow_download: whether what is missing may be fetched from the hub.  Nothing else ever uses the network.

    Raises BaseModelError, in one sentence, for what cannot be a base model.
    """
    if vae_dtype not in (torch.float32, torch.bfloat16):
        raise BaseModelError(
            f"VAE: expected float32 or bfloat16, found {str(vae_dtype)[6:]}, in which SDXL's VAE overflows; "
            "set memory.vae to fp32 or bf16"
        )
    device = torch.device(device)
    dtypes = {"unet": dtype, "vae": vae_dtype, "default": text_dtype(dtype, device)}
    path, name = _place(Path(path), allow_download)
    for library in (diffusers, transformers):  # the trainer has a progress bar of its own
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    chosen = None if tokenizer is None else Path(tokenizer)
    load = load_folder if path.is_dir() else load_single_file
    pipeline = load(path, dtypes, chosen, allow_download)
    pipeline.scheduler = _scheduler(path, pipeline.scheduler, prediction)
    if vae is not None:
        sdxl = isinstance(pipeline, StableDiffusionXLPipeline)
        pipeline.register_modules(vae=load_vae(vae, vae_dtype, pipeline.unet.config.in_channels, sdxl))
    pipeline.set_progress_bar_config(disable=True)
    for part_name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            _check_whole(path, part_name, part)
            part.requires_grad_(False).eval().to(device if part is not pipeline.unet else unet_device or device)
    layout = SkipLayout.from_diffusers(pipeline.unet.config)
    return BaseModel(name, pipeline, layout, device, dtype, text_options(text, pipeline, layout.family))


def text_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Of text encoders beside a U-Net in `dtype`: float16 on a GPU where that is a half precision, as ComfyUI runs
    them; else float32, since each caption is encoded once and a CPU computes in half precision no faster."""
    half = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    return torch.float16 if half else torch.float32


def text_options(
    text: TextConfig | None, pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline, family: str | None
) -> TextOptions:
    """How captions are encoded by a pipeline.  Raises BaseModelError for a layer that it cannot give."""
    if text is None:
        return TextOptions()
    sdxl, layers = isinstance(pipeline, StableDiffusionXLPipeline), pipeline.text_encoder.config.num_hidden_layers
    return TextOptions(text.max_tokens, layer_of(text.clip_skip, layers, sdxl, family), text.weights)


def _place(path: Path, allow_download: bool) -> tuple[Path, str]:
    """Where the model lies, and its name."""
    try:
        if path.is_dir():
            return path, path.resolve().name
        if path.is_file():
            return path, path.stem
    except OSError as error:  # a name with a null byte, no permission
        raise BaseModelError(
            f"{path}: expected a base model, found one that cannot be opened ({error}); check the path"
        ) from error
    repository = "/".join(path.parts[-2:])
    if path.suffix != ".safetensors" and not path.parent.is_dir() and _REPOSITORY.fullmatch(repository):
        found = _from_hub(repository, allow_download)
        if found is not None:
            return found, path.name
    raise BaseModelError(
        f"{path}: expected a diffusers folder or a .safetensors checkpoint, found nothing there"
        f"{'' if allow_download else ' nor in the local hub cache'}; check the path"
    )


def _from_hub(repository: str, allow_download: bool) -> Path | None:
    """The folder of a repository in the local hub cache, fetched first where that is allowed."""
    try:
        return Path(
            snapshot_download(repository, local_files_only=not allow_download, allow_patterns=list(_DOWNLOADED))
        )
    except Exception as error:  # not cached, no network, no such repository: each with its own error
        if not allow_download:
            return None
        raise BaseModelError(
            f"{repository}: expected a model on the hub, found no way to get it ({in_short(error)}); check the name"
        ) from error


def _check_whole(path: Path, part_name: str, part: torch.nn.Module) -> None:
    missing = [key for key, weight in part.state_dict().items() if weight.is_meta]
    if missing:
        raise BaseModelError(
            f"{path}: expected a whole {part_name}, found {len(missing)} weights missing, the first {missing[0]}; "
            "download it again"
        )


def _scheduler(path: Path, scheduler, prediction: Prediction) -> DDIMScheduler:
    """A DDIM scheduler with the betas, spacing and prediction type of `scheduler`, whichever kind that is.

    Some kinds have no `get_velocity`, and `add_noise` of others does not keep the variance.
    """
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    config |= {"clip_sample": False, "thresholding": False, "steps_offset": 1}
    if prediction != "auto":
        config["prediction_type"] = prediction
    found = config.get("prediction_type", "epsilon")
    if found not in ("epsilon", "v_prediction"):
        raise BaseModelError(
            f"{path}: expected a model that predicts epsilon or v_prediction, found {found}; choose another base model"
        )
    return DDIMScheduler.from_config(config)
