"""The frozen base model and what the trainer asks of it: latents, text states, and the U-Net's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from scedit_core import SkipLayout
from scedit_core.diffusers import attach
from scedit_core.fitting.base import Added, Attached, TextStates, stacked
from scedit_core.fitting.machine import moved

from .encoder_graph import decoder_of, encoder_skips, encoder_without_graph
from .fingerprints import plain_fingerprint, text_fingerprint, weights_fingerprint
from .text_encoding import PLAIN, TextOptions, encode, token_count

RESTING = torch.device("cpu")  # where weights wait that the next steps do not need


@dataclass(eq=False)
class BaseModel:
    """A pipeline's parts, frozen.  Made by `loading.load_base`.

    name:     file or folder name without its ending.
    pipeline: the parts, with a DDIM scheduler that has the checkpoint's betas and prediction type.
    layout:   the skips of the U-Net.
    device:   where the VAE and the text encoders work.
    compute_dtype: what the U-Net computes in; its weights may be stored in less.
    text:     how captions are encoded.
    """

    name: str
    pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline
    layout: SkipLayout
    device: torch.device
    compute_dtype: torch.dtype = torch.float32
    text: TextOptions = PLAIN
    _rests: bool = field(default=False, init=False)  # whether the decoder is not on the U-Net's device

    @property
    def unet(self):
        """The U-Net."""
        return self.pipeline.unet

    @property
    def vae(self):
        """The autoencoder: AutoencoderKL or AutoencoderTiny."""
        return self.pipeline.vae

    @property
    def scheduler(self):
        """The noise schedule of the checkpoint, with `add_noise` and `get_velocity`."""
        return self.pipeline.scheduler

    @property
    def alphas_cumprod(self) -> Tensor:
        """[T] of the noise schedule."""
        return self.scheduler.alphas_cumprod

    @property
    def unet_device(self) -> torch.device:
        """Where the U-Net works."""
        return next(self.unet.parameters()).device  # for `unet.device` diffusers walks through all modules

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config.latent_channels

    @property
    def prediction(self) -> str:
        """What the U-Net predicts: "epsilon" or "v_prediction"."""
        return self.scheduler.config.prediction_type

    @property
    def needs_sizes(self) -> bool:
        """Whether the U-Net is told picture sizes and crops (SDXL)."""
        return self.unet.config.addition_embed_type == "text_time"

    @cached_property
    def vae_fingerprint(self) -> str:
        """Changes with the VAE's weights, scaling or precision, and with nothing else: 16 hexadecimal digits."""
        return weights_fingerprint(self.vae)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with what is predicted, the noise schedule and any weights, whatever file or precision they are in.

        To be asked for before the U-Net is stored in 8 bits.
        """
        schedule = [round(each, 6) for each in self.alphas_cumprod.tolist()]
        return plain_fingerprint([self.prediction, schedule], self.unet, self.vae, *self._encoders[1:])

    @cached_property
    def text_fingerprint(self) -> str:
        """Changes with the text encoders' weights or precision, the tokenizer's words, and how captions are read."""
        plain = text_fingerprint(self._encoders[1:], self._tokenizers)
        return plain if self.text.plain else f"{plain} {self.text.max_tokens} {self.text.layer} {self.text.weights}"

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] in -1..1 to scaled latents [B,4,H/8,W/8]: the mean of the posterior, in float32."""
        return self.encode_moments(images)[0]

    @torch.no_grad()
    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B,3,H,W] in -1..1 to mean and standard deviation [B,4,H/8,W/8] of scaled latents, in float32.

        AutoencoderTiny has no posterior: its deviation is zero.
        """
        encoded = self.vae.encode(images.to(self.vae.device, self.vae.dtype))
        shift, scale = self._latent_shift, self.vae.config.scaling_factor
        if isinstance(self.vae, AutoencoderTiny):
            latents = (encoded.latents.float() - shift) * scale
            return latents, torch.zeros_like(latents)
        posterior = encoded.latent_dist
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B,4,h,w] to images [B,3,8h,8w] in 0..1, in float32."""
        latents = latents.to(self.vae.device, torch.float32) / self.vae.config.scaling_factor + self._latent_shift
        return (self.vae.decode(latents.to(self.vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> TextStates:
        """Captions to text states, in the encoders' dtype: padded and cut as the base's own pipeline does, or in chunks
        as `text` says."""
        if not self.text.plain:
            parts = self._tokenizers, self._encoders[1:]
            return stacked([encode(caption, self.text, *parts, self.needs_sizes) for caption in captions])
        found = self.pipeline.encode_prompt(
            list(captions), device=self._encoders[-1].device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return TextStates(found[0], found[2]) if self.needs_sizes else TextStates(found[0])

    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has, beginning and end included; what is beyond `caption_limit` is cut off."""
        if not self.text.plain:
            return [token_count(caption, self.text, self.pipeline.tokenizer) for caption in captions]
        return [len(ids) for ids in self.pipeline.tokenizer(list(captions)).input_ids]

    @property
    def caption_limit(self) -> int:
        """How many tokens the text encoder reads."""
        return self.text.chunks * (self.pipeline.tokenizer.model_max_length - 2) + 2

    def unet_inputs(self, text: TextStates, sizes: Tensor | None) -> dict:
        """Keyword arguments for `unet(noisy, timesteps, ...)`, on its device and in its dtype.

        sizes: [B,6] for SDXL: original height and width, crop top and left, target height and width, in pixels.
        Raises ValueError where SDXL gets none.
        """
        text = text.to(self.unet_device, self.compute_dtype)
        if not self.needs_sizes:
            return {"encoder_hidden_states": text.states}
        if sizes is None or text.pooled is None:
            raise ValueError("unet_inputs: expected sizes [B,6] and pooled text states for SDXL, found none; pass them")
        # In float32, since bfloat16 has no 1023; the U-Net casts after it made sines of them.
        conditions = {"text_embeds": text.pooled, "time_ids": moved(sizes, self.unet_device, torch.float32)}
        return {"encoder_hidden_states": text.states, "added_cond_kwargs": conditions}

    @torch.no_grad()
    def skips(self, noisy: Tensor, timesteps: Tensor, text: TextStates, sizes: Tensor | None) -> list[Tensor]:
        """See FrozenBase."""
        return encoder_skips(
            self.unet, noisy.to(self.unet_device, self.compute_dtype), timesteps, **self.unet_inputs(text, sizes)
        )

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextStates,
        sizes: Tensor | None,
        edits: Sequence[Attached] = (),
        added: Added | None = None,
        apart: bool = False,
    ) -> Tensor:
        """See FrozenBase."""
        if self._rests:
            self._move_decoder(self.unet.device)
        inputs = self.unet_inputs(text, sizes)
        if added is not None:
            zero = noisy.new_zeros((), device=self.unet_device, dtype=self.compute_dtype)
            *skips, middle = (zero if each is None else each for each in (*added.skips[::-1], added.middle))
            # Without a middle residual diffusers would take the others for a T2I-Adapter's.
            inputs |= {"down_block_additional_residuals": tuple(skips), "mid_block_additional_residual": middle}
        with encoder_without_graph(self.unet), attach(self.unet, edits, apart):
            return self.unet(noisy.to(self.unet_device, self.compute_dtype), timesteps, return_dict=False, **inputs)[0]

    def rest_decoder(self) -> None:
        """See FrozenBase."""
        if not self._rests and self.unet.device != RESTING:
            self._move_decoder(RESTING)

    def _move_decoder(self, device: torch.device) -> None:
        for part in decoder_of(self.unet):
            part.to(device)
        self._rests = device == RESTING
        if self.unet.device.type == "cuda":
            torch.cuda.empty_cache()

    def release_encoders(self) -> None:
        """VAE and text encoders to the CPU, their memory on the device given back: all is cached."""
        self._move_encoders(torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def restore_encoders(self) -> None:
        """VAE and text encoders back to `device`."""
        self._move_encoders(self.device)

    def _move_encoders(self, device: torch.device) -> None:
        for part in self._encoders:
            part.to(device)

    @property
    def _encoders(self) -> list:
        """The VAE, then the text encoders."""
        pipe = self.pipeline
        return [p for p in (pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)) if p is not None]

    @property
    def _tokenizers(self) -> list:
        pipe = self.pipeline
        return [t for t in (pipe.tokenizer, getattr(pipe, "tokenizer_2", None)) if t is not None]

    @property
    def _latent_shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0
