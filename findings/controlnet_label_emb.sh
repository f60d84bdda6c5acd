#!/usr/bin/env bash
# diffusers 0.42.1: a single-file SDXL ControlNet with the original names has `label_emb`, the embedding of the pooled text
# and of the picture's sizes.  `convert_controlnet_checkpoint`, by which `ControlNetModel.from_single_file` names the
# weights, drops its four tensors without a word, while `convert_ldm_unet_checkpoint` names those of the U-Net
# `add_embedding`, which an SDXL ControlNet has too.
# Exits with 0 while that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q "diffusers==0.42.1" "torch==2.11.0" numpy >/dev/null
"$work/env/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint, convert_ldm_unet_checkpoint

network = ControlNetModel(  # SDXL's in small
    block_out_channels=(32,),
    layers_per_block=1,
    down_block_types=("DownBlock2D",),
    cross_attention_dim=16,
    attention_head_dim=8,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=64,
)
sizes = {name: tuple(weight.shape) for name, weight in network.state_dict().items() if name.startswith("add_embedding.")}
original = {
    f"{name}.{part}": torch.randn(sizes[f"add_embedding.{ours}.{part}"])
    for name, ours in (("label_emb.0.0", "linear_1"), ("label_emb.0.2", "linear_2"))
    for part in ("weight", "bias")
}
file = original | {f"time_embed.{i}.{part}": torch.randn(4) for i in (0, 2) for part in ("weight", "bias")}
config = {"layers_per_block": 1, "addition_embed_type": "text_time", "class_embed_type": None}


def named(converted: dict) -> list[str]:
    """The names that the weights of label_emb got."""
    return sorted(name for name, each in converted.items() if any(each is weight for weight in original.values()))


kept = named(convert_controlnet_checkpoint(dict(file), config))
unet = {f"model.diffusion_model.{name}": weight for name, weight in file.items()}
in_unet = named(convert_ldm_unet_checkpoint(unet, config | {"down_block_types": (), "up_block_types": ()}))
print("diffusers", diffusers.__version__)
print("an SDXL ControlNet has", sorted(sizes))
print("of the file's", sorted(original), "the ControlNet's converter names", kept, "and the U-Net's", in_unet)
raise SystemExit(0 if sorted(sizes) == in_unet and kept == [] else 1)
PYTHON
