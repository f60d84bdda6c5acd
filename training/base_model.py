"""The frozen base model: a diffusers folder, loaded without the network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError
from torch import Tensor

from scedit_core import SkipLayout

from .errors import BaseModelError


@dataclass
class BaseModel:
    """A pipeline's parts, frozen, with what the trainer asks of them."""

    name: str
    pipeline: StableDiffusionPipeline
    layout: SkipLayout

    @property
    def unet(self):
        """The U-Net."""
        return self.pipeline.unet

    @property
    def scheduler(self):
        """The noise schedule of the checkpoint."""
        return self.pipeline.scheduler

    @property
    def prediction(self) -> str:
        """What the U-Net predicts: "epsilon" or "v_prediction"."""
        return self.scheduler.config.prediction_type

    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] in -1..1 to scaled latents [B,4,H/8,W/8]."""
        vae = self.pipeline.vae
        encoded = vae.encode(images.to(vae.device, vae.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor

    def encode_captions(self, captions: list[str]) -> Tensor:
        """Captions to text states [B,L,D], padded and cut as the pipeline does."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        ids = tokenizer(
            captions,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return encoder(ids.to(encoder.device)).last_hidden_state


def load_base(folder: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> BaseModel:
    """Load a Stable Diffusion pipeline folder.  Raises BaseModelError where there is none or it is of another kind."""
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise BaseModelError(
            f"{folder}: expected a diffusers folder with model_index.json, found none; give the folder of a base model"
        )
    try:
        kind = json.loads(index.read_text("utf-8")).get("_class_name")
        if kind != "StableDiffusionPipeline":
            raise BaseModelError(
                f"{folder}: expected a StableDiffusionPipeline, found {kind}; choose an SD 1.x or 2.x base"
            )
        for library in (diffusers, transformers):  # the trainer has a progress bar of its own
            library.utils.logging.disable_progress_bar()
            library.utils.logging.set_verbosity_error()
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, local_files_only=True, safety_checker=None, requires_safety_checker=False
        ).to(device, dtype)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        line = " ".join(str(error).split())[:200]
        raise BaseModelError(f"{folder}: expected a whole base model, found one that fails to load ({line})") from error
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval()
    return BaseModel(folder.resolve().name, pipeline, SkipLayout.from_diffusers(pipeline.unet.config))
