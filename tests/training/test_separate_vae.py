"""A VAE in a file or folder of its own, as ComfyUI and diffusers write them, and what cannot be one."""

from __future__ import annotations

import pytest
import small_checkpoints as small
import torch
from diffusers import AutoencoderKL

from scedit_core.errors import BaseModelError
from training.bases.loading import load_base


def vae_state(pipeline) -> dict:
    return {
        k.removeprefix("first_stage_model."): v for k, v in small.checkpoint_weights(pipeline).items() if "first" in k
    }


@pytest.mark.parametrize("kind", ["comfyui", "diffusers", "checkpoint", "folder"])
def test_a_separate_vae_takes_the_place_of_the_bases(base_folder, tmp_path, kind):
    pipeline = small.small_pipeline("sd15", small.write_tokenizer(tmp_path / "words"))
    path = tmp_path / "vae.safetensors"
    if kind == "folder":
        path = tmp_path / "vae"
        pipeline.vae.save_pretrained(path)
    elif kind == "diffusers":
        small.write_checkpoint(path, {k: v.contiguous() for k, v in pipeline.vae.state_dict().items()})
    elif kind == "comfyui":
        small.write_checkpoint(path, vae_state(pipeline))
    else:
        small.write_checkpoint(path, small.checkpoint_weights(pipeline))
    base, own = load_base(base_folder, vae=path), load_base(base_folder)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = pipeline.vae.encode(image).latent_dist.mean * 0.18215
    assert torch.allclose(base.encode_images(image), expected, atol=1e-5)
    assert base.vae_fingerprint != own.vae_fingerprint
    assert base.fingerprint != own.fingerprint


def test_a_vae_of_other_latents_and_what_is_none_are_refused(base_folder, tmp_path):
    wide = AutoencoderKL(
        block_out_channels=(32, 32),
        latent_channels=16,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    wide.save_pretrained(tmp_path / "wide")
    small.write_checkpoint(tmp_path / "wide.safetensors", {k: v.contiguous() for k, v in wide.state_dict().items()})
    small.write_checkpoint(tmp_path / "other.safetensors", {"x": torch.zeros(3)})
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 50)
    for name in ("wide", "wide.safetensors"):
        with pytest.raises(
            BaseModelError, match="vae: expected latents of 4 channels, as the base has them, found 16 in"
        ):
            load_base(base_folder, vae=tmp_path / name)
    with pytest.raises(BaseModelError, match="vae: expected a file with a VAE, found none in"):
        load_base(base_folder, vae=tmp_path / "other.safetensors")
    for name in ("broken.safetensors", "missing.safetensors"):
        with pytest.raises(BaseModelError, match=name):
            load_base(base_folder, vae=tmp_path / name)
