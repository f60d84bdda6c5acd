"""A ControlNet as ComfyUI users have it, loaded beside a base: the teacher of a CSC-Tuner."""

from __future__ import annotations

import inspect
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors import safe_open
from torch import Tensor

from scedit_core.errors import BaseModelError, in_short
from scedit_core.fitting.base import Added, TextStates

from .base_model import BaseModel
from .fingerprints import weights_fingerprint

# The kinds of a union ControlNet, by the number of each in its table of tasks.
UNION_KINDS = {
    "openpose": 0, "depth": 1, "hed": 2, "scribble": 2, "canny": 3, "lineart": 3, "mlsd": 3,
    "normal": 4, "segment": 5, "tile": 6, "repaint": 7,
}  # fmt: skip
_EMBEDDING = "controlnet_cond_embedding."
_HINTS_IN = (_EMBEDDING + "conv_in.weight", "input_hint_block.0.weight")
_DO = "choose a ControlNet that was made for this base"
# What other files are told by: a part of a tensor's name, and what the file is.
_FOREIGN = (
    ("lora_controlnet", "a control LoRA, which only ComfyUI can unfold; use the node Distil a ControlNet, or"),
    ("lllite_", "a ControlNet-LLLite, which changes attention layers and not the skips;"),
    ("adapter.body.", "a T2I-Adapter, which changes the encoder and not the skips;"),
    ("body.0.resnets.", "a T2I-Adapter, which changes the encoder and not the skips;"),
    ("body.0.in_conv", "a T2I-Adapter, which changes the encoder and not the skips;"),
    ("double_blocks.", "a ControlNet of a transformer model, which has no skips;"),
    ("transformer_blocks.0.norm1_context", "a ControlNet of a transformer model, which has no skips;"),
    ("tuners.", "a tuner (name it in tuner.start_from to train it further);"),
    ("lsc_tuner_blocks.", "a tuner (name it in tuner.start_from to train it further);"),
    ("model.diffusion_model.output_blocks.", "a base model;"),
)


@dataclass(eq=False)
class Teacher:
    """A frozen ControlNet beside its base.

    name:     of its file or folder.
    network:  in the dtype and on the device it was loaded for.
    kind:     which task of a union ControlNet, else None.
    strength: multiplies what it adds.
    """

    name: str
    base: BaseModel
    network: ControlNetModel | ControlNetUnionModel
    kind: int | None = None
    strength: float = 1.0

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with any weight."""
        return weights_fingerprint(self.network)

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return sum(p.numel() for p in self.network.parameters())

    @torch.no_grad()
    def residuals(
        self, noisy: Tensor, timesteps: Tensor, hints: Tensor, text: TextStates, sizes: Tensor | None
    ) -> Added:
        """What it adds to each skip and to the middle block's output, times its strength.

        noisy [B,4,h,w], timesteps [B], hints [B,3,8h,8w] in 0..1, text and sizes as `BaseModel.predict` takes them.
        """
        inputs = self.base.unet_inputs(text, sizes)
        device, dtype = self.network.device, self.network.dtype
        noisy, hints = noisy.to(device, dtype), hints.to(device, dtype)
        common = {"conditioning_scale": self.strength, "return_dict": False, **inputs}
        if self.kind is None:
            down, middle = self.network(noisy, timesteps, controlnet_cond=hints, **common)
        else:
            tasks = torch.zeros(len(noisy), self.network.config.num_control_type, device=device)
            tasks[:, self.kind] = 1
            down, middle = self.network(
                noisy, timesteps, controlnet_cond=[hints], control_type=tasks, control_type_idx=[self.kind], **common
            )
        return Added(list(down)[::-1], middle)


def load_teacher(
    path: Path, base: BaseModel, dtype: torch.dtype, kind: str | None = None, strength: float = 1.0
) -> Teacher:
    """A ControlNet for the skips of `base`, on its U-Net's device.

    path: a file (.safetensors, .pth, .bin) with the original or diffusers' names, or a diffusers folder.
    kind: for a union ControlNet, one of UNION_KINDS.

    Raises BaseModelError, in one sentence, for another kind of file, one for another base, or a damaged one.
    """
    weights, config = read_teacher(path)
    weights = _with_diffusers_names(weights, base)
    union = "task_embedding" in weights
    if (kind is not None) != union:
        names = ", ".join(UNION_KINDS)
        said = f"one of {names} in teacher.kind for a union ControlNet, found none; name what your hints show"
        raise BaseModelError(
            f"{path}: expected {said}" if union else
            f"{path}: expected a union ControlNet for teacher.kind {kind}, found one for a single condition; "
            "remove teacher.kind"
        )  # fmt: skip
    network = _network(path, weights, config, base, union)
    tasks = network.config.num_control_type if union else 0
    if union and UNION_KINDS[kind] >= tasks:
        raise BaseModelError(
            f"{path}: expected a union ControlNet that knows {kind}, found one of {tasks} kinds; choose another kind"
        )
    network.requires_grad_(False).eval().to(base.unet.device, dtype)
    name = path.stem if path.is_file() else path.resolve().name
    return Teacher(name, base, network, UNION_KINDS[kind] if union else None, float(strength))


_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def read_teacher(path: Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """A ControlNet's weights, mapped from its file, and its folder's config.

    Raises BaseModelError where it is none that can be read; whether it fits a base is for `load_teacher` to say.
    """
    weights, config = _read(path)
    for part, found in _FOREIGN:
        if any(part in name for name in weights):
            raise BaseModelError(f"{path}: expected a ControlNet, found {found} {_DO}")
    if not any(name.endswith(_HINTS_IN) for name in weights):
        first = next(iter(sorted(weights)), "nothing")
        raise BaseModelError(f"{path}: expected a ControlNet, found a file with {first:.60}; {_DO}")
    return weights, config


def _read(path: Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    config: dict[str, Any] = {}
    try:
        file = path
        if path.is_dir():
            config = json.loads((path / "config.json").read_text("utf-8"))
            names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
            file = next((path / n for n in names if (path / n).is_file()), path / "diffusion_pytorch_model.bin")
        elif file.is_file() and file.suffix.lower() not in _ENDINGS:
            raise BaseModelError(
                f"{path}: expected a ControlNet's file ({', '.join(_ENDINGS)}) or its diffusers folder, found another "
                "file; check teacher.controlnet"
            )
        if file.suffix.lower() == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}, config  # noqa: SIM118 (no mapping)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        state = state.get("state_dict", state)
        return {k: v for k, v in state.items() if isinstance(v, Tensor)}, config
    except FileNotFoundError as error:
        found = "a folder without a ControlNet's config.json and weights" if path.is_dir() else "nothing there"
        raise BaseModelError(
            f"{path}: expected a ControlNet's file or diffusers folder, found {found}; check teacher.controlnet"
        ) from error
    except BaseModelError:
        raise
    except Exception as error:  # whatever a broken or hostile file makes a parser raise
        raise BaseModelError(
            f"{path}: expected a whole ControlNet, found one that cannot be read ({in_short(error, 120)}); download "
            "it again"
        ) from error


def _with_diffusers_names(weights: Mapping[str, Tensor], base: BaseModel) -> dict[str, Tensor]:
    config = {"layers_per_block": base.unet.config.layers_per_block}
    named = {k: v for k, v in convert_controlnet_checkpoint(dict(weights), config).items() if v is not None}
    for name, tensor in weights.items():  # SDXL's sizes, which diffusers leaves out
        if m := re.search(r"label_emb\.0\.([02])\.(weight|bias)$", name):
            named[f"add_embedding.linear_{int(m[1]) // 2 + 1}.{m[2]}"] = tensor
    return named


def _network(path: Path, weights: Mapping[str, Tensor], config: dict[str, Any], base: BaseModel, union: bool):
    """The network with its weights; its shape is that of the base's encoder, the rest is read off the weights."""
    channels = weights[_EMBEDDING + "conv_in.weight"].shape[1]
    if channels != 3:
        raise BaseModelError(
            f"{path}: expected a ControlNet that takes a picture of 3 channels, found one of {channels} (inpainting "
            f"with a mask channel); {_DO} and has 3"
        )
    unet = base.unet
    wanted = ("down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim")
    for key in wanted:
        have, expected = config.get(key), unet.config.get(key)
        if have is not None and _plain(have) != _plain(expected):
            raise _another_base(path, base, f"{key} {have}")
    with torch.device("meta"):
        network = _union(unet, weights) if union else _single(unet, weights)
    have = {name: tuple(w.shape) for name, w in weights.items()}
    need = {name: tuple(w.shape) for name, w in network.state_dict().items()}
    wrong = [name for name, shape in need.items() if name in have and have[name] != shape]
    missing = sorted(need.keys() - have.keys())
    if wrong:
        raise _another_base(path, base, f"{wrong[0]} of {list(have[wrong[0]])} where it has {list(need[wrong[0]])}")
    extra = sorted(name for name in have.keys() - need.keys() if name.startswith("down_blocks."))
    if extra or any(name.startswith(("down_blocks.", "add_embedding.")) for name in missing):
        raise _another_base(path, base, f"{(extra or missing)[0]}, which one of the two has not")
    if missing:
        raise BaseModelError(
            f"{path}: expected a whole ControlNet, found one without {missing[0]} and {len(missing) - 1} more weights; "
            "download it again"
        )
    network.load_state_dict({name: weights[name] for name in need}, assign=True)
    return network


def _embedding_widths(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The widths of the hint's embedding: 16, 32, 96, 256 in most files."""
    widths = [weights[_EMBEDDING + "conv_in.weight"].shape[0]]
    blocks = 0
    while f"{_EMBEDDING}blocks.{blocks}.weight" in weights:
        blocks += 1
    widths += [weights[f"{_EMBEDDING}blocks.{i}.weight"].shape[0] for i in range(1, blocks, 2)]
    return tuple(widths)


def _single(unet, weights: Mapping[str, Tensor]) -> ControlNetModel:
    widths = _embedding_widths(weights)
    return ControlNetModel.from_unet(unet, load_weights_from_unet=False, conditioning_embedding_out_channels=widths)


def _union(unet, weights: Mapping[str, Tensor]) -> ControlNetUnionModel:
    kinds, width = weights["task_embedding"].shape
    known = inspect.signature(ControlNetUnionModel.__init__).parameters
    options = {k: v for k, v in _single(unet, weights).config.items() if k in known}
    layers = len({name.split(".")[1] for name in weights if name.startswith("transformer_layes.")})
    return ControlNetUnionModel(
        **options
        | {
            "conditioning_embedding_out_channels": _embedding_widths(weights),
            "num_control_type": kinds,
            "num_trans_channel": width,
            "num_trans_layer": layers,
            "num_proj_channel": weights["spatial_ch_projs.weight"].shape[0],
        }
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _another_base(path: Path, base: BaseModel, found: str) -> BaseModelError:
    return BaseModelError(
        f"{path}: expected a ControlNet for {base.name} ({base.layout.title}), found one for another base ({found}); "
        f"{_DO}"
    )
