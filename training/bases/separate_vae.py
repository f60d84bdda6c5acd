"""A VAE in a file or folder of its own, in place of that of the base."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from scedit_core.errors import BaseModelError, in_short

from .checkpoint_header import CheckpointHeader
from .recognising import VAE
from .shapes import vae_config
from .single_file import CONFIGS


def load_vae(path: Path, dtype: torch.dtype, channels: int, sdxl: bool) -> AutoencoderKL:
    """The VAE at `path`: a .safetensors file as ComfyUI has it in models/vae, a checkpoint with one inside, or a folder
    in diffusers' layout, with or without a base model around it.

    channels: of the latents that the U-Net takes.  sdxl: whose latents are scaled otherwise; a folder says so itself.

    Raises BaseModelError, in one sentence, for what is none, and for one of other latents.
    """
    check_vae(path, channels)
    try:
        if not path.is_dir():
            return _from_file(path, dtype, sdxl)
        options = {"torch_dtype": dtype, "local_files_only": True, "use_safetensors": True}
        return AutoencoderKL.from_pretrained(_inner(path), **options)
    except BaseModelError:
        raise
    except Exception as error:  # whatever the libraries below raise, it is a broken or unusual file
        raise BaseModelError(
            f"vae: expected a VAE of SD 1.5, SD 2.x or SDXL at {path}, found one that fails to load "
            f"({in_short(error)}); choose another, or take vae out for the base's own"
        ) from error


def check_vae(path: Path, channels: int) -> None:
    """Raise BaseModelError, by the head of what lies at `path` alone, where it is no VAE or one of other latents."""
    if path.is_dir():
        try:
            found = json.loads((_inner(path) / "config.json").read_text("utf-8")).get("latent_channels", 4)
        except (OSError, ValueError, AttributeError) as error:
            raise BaseModelError(
                f"vae: expected a diffusers folder with a VAE's config.json, found none in {path}; choose another, or "
                "take vae out for the base's own"
            ) from error
    else:
        header = CheckpointHeader(path)
        found = header.shapes[f"{_prefix(header)}decoder.conv_in.weight"][1]
    if found != channels:
        raise BaseModelError(
            f"vae: expected latents of {channels} channels, as the base has them, found {found} in {path}; choose a "
            "VAE of the base's family, or take vae out for the base's own"
        )


def _inner(path: Path) -> Path:
    return path / "vae" if (path / "vae" / "config.json").is_file() else path


def _prefix(header: CheckpointHeader) -> str:
    prefix = next((p for p in (VAE, "vae.", "") if f"{p}decoder.conv_in.weight" in header.shapes), None)
    if prefix is None:
        raise BaseModelError(
            f"vae: expected a file with a VAE, found none in {header.path}; choose one of ComfyUI's models/vae"
        )
    return prefix


def _from_file(path: Path, dtype: torch.dtype, sdxl: bool) -> AutoencoderKL:
    header = CheckpointHeader(path)
    prefix = _prefix(header)
    shapes = header.below(prefix)
    told = json.loads((CONFIGS / ("sdxl" if sdxl else "sd15") / "vae" / "config.json").read_text("utf-8"))
    weights = header.read(
        prefix + name for name in shapes if name.startswith(("encoder.", "decoder.", "quant", "post"))
    )
    weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    if "encoder.down.0.block.0.conv1.weight" not in shapes:  # diffusers' own names
        told |= _widths(shapes)
        vae = AutoencoderKL.from_config(told)
        vae.load_state_dict(weights)
        return vae.to(dtype)
    told |= vae_config(shapes)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(told), "utf-8")
        named = {VAE + name: tensor for name, tensor in weights.items()}
        return AutoencoderKL.from_single_file(named, config=folder, dtype=dtype, local_files_only=True)


def _widths(shapes: dict[str, tuple[int, ...]]) -> dict:
    """Fields of a config, from diffusers' names."""
    levels = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down_blocks."))
    first = [name for name in shapes if name.startswith("encoder.down_blocks.0.resnets.")]
    return {
        "block_out_channels": [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)],
        "layers_per_block": 1 + max(int(name.split(".")[4]) for name in first),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
    }
