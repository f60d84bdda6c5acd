"""Configs of U-Net, VAE and text encoders, derived from the shapes in a checkpoint: any width and depth, no table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
_HEAD = 64  # channels of an attention head in SD 2.x, SDXL and CLIP


class UnknownShapeError(ValueError):
    """The weights do not make a part of the kind expected; the message says what was expected and found."""


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Fields of a diffusers UNet2DConditionModel config, from names such as input_blocks.0.0.weight.

    Raises UnknownShapeError where levels differ in their number of blocks or a part is missing.
    """
    width = shapes["input_blocks.0.0.weight"][0]
    down = _levels(shapes, "input_blocks", range(1, _count(shapes, r"input_blocks\.(\d+)\.")), ".0.op.weight")
    per_level = len(down[0][1])
    if any(len(depths) != per_level for _, depths in down):
        raise UnknownShapeError(f"levels of equally many blocks, found {[len(d) for _, d in down]}")
    outputs = _count(shapes, r"output_blocks\.(\d+)\.")
    if outputs != len(down) * (per_level + 1):
        raise UnknownShapeError(f"{len(down) * (per_level + 1)} output blocks, found {outputs}")
    up = [
        [_depth(shapes, f"output_blocks.{n}") for n in range(i, i + per_level + 1)]
        for i in range(0, outputs, per_level + 1)
    ]
    middle = _depth(shapes, "middle_block")
    if not middle:
        raise UnknownShapeError("a middle block with attention, found none")
    widths = [w for w, _ in down]
    linear = len(shapes["middle_block.1.proj_in.weight"]) == 2
    config = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": per_level,
        "down_block_types": ["CrossAttnDownBlock2D" if any(d) else "DownBlock2D" for _, d in down],
        "up_block_types": ["CrossAttnUpBlock2D" if any(d) else "UpBlock2D" for d in up],
        "cross_attention_dim": shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": linear,
        # diffusers means the number of heads, whatever it calls it
        "attention_head_dim": [max(1, w // _HEAD) for w in widths] if linear else 8,
        **_transformer_layers([d for _, d in down], up, middle),
    }
    if width != widths[0]:
        raise UnknownShapeError(f"a first level of {width} channels, found {widths[0]}")
    return config


def size_embedding(shapes: Shapes, pooled: int) -> dict[str, Any]:
    """Fields of SDXL's config for picture sizes: six sines of equal width stand beside `pooled` text features."""
    inputs = shapes["label_emb.0.0.weight"][1]
    if inputs <= pooled or (inputs - pooled) % 6:
        raise UnknownShapeError(f"{pooled} pooled text features and six sizes, found {inputs} inputs")
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (inputs - pooled) // 6,
        "projection_class_embeddings_input_dim": inputs,
    }


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Fields of a diffusers AutoencoderKL config, from names such as encoder.down.0.block.0.conv1.weight."""
    levels = _count(shapes, r"encoder\.down\.(\d+)\.block\.")
    widths = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    return {
        "block_out_channels": widths,
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
    }


def clip_config(shapes: Shapes) -> dict[str, Any]:
    """Fields of a CLIPTextConfig, from names in CLIP's own layout or in OpenCLIP's."""
    open_clip = "positional_embedding" in shapes
    embeddings = "" if open_clip else "text_model.embeddings."
    words = shapes[embeddings + "token_embedding.weight"]
    places = shapes["positional_embedding" if open_clip else embeddings + "position_embedding.weight"]
    layers = r"transformer\.resblocks\.(\d+)\." if open_clip else r"text_model\.encoder\.layers\.(\d+)\."
    inner = "transformer.resblocks.0.mlp.c_fc" if open_clip else "text_model.encoder.layers.0.mlp.fc1"
    config = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "max_position_embeddings": places[0],
        "num_hidden_layers": _count(shapes, layers),
        "num_attention_heads": max(1, words[1] // _HEAD),
        "intermediate_size": shapes[inner + ".weight"][0],
    }
    if "text_projection" in shapes:
        config["projection_dim"] = shapes["text_projection"][1]
    return config


def _levels(shapes: Shapes, blocks: str, numbers: range, downsampler: str) -> list[tuple[int, list[int]]]:
    """(channels, transformer depth of each block) of each level."""
    levels: list[tuple[int, list[int]]] = []
    fresh = True
    for n in numbers:
        if f"{blocks}.{n}{downsampler}" in shapes:
            fresh = True
            continue
        width = shapes[f"{blocks}.{n}.0.out_layers.3.weight"][0]
        if fresh:
            levels.append((width, []))
            fresh = False
        levels[-1][1].append(_depth(shapes, f"{blocks}.{n}"))
    if not levels:
        raise UnknownShapeError("a U-Net with levels, found none")
    return levels


def _depth(shapes: Shapes, block: str) -> int:
    """How many transformer layers a block has."""
    return _count(shapes, re.escape(block) + r"\.1\.transformer_blocks\.(\d+)\.")


def _transformer_layers(down: list[list[int]], up: list[list[int]], middle: int) -> dict[str, Any]:
    """`transformer_layers_per_block` for each level; its last entry is also the middle block's depth."""
    regular = all(len(set(d)) == 1 for d in down + up) and [d[0] for d in down] == [u[0] for u in reversed(up)]
    if not regular:  # distilled SDXL: another depth for each block
        if down[-1][0] != middle:
            raise UnknownShapeError(f"a middle block as deep as the last level ({down[-1][0]}), found {middle}")
        return {"transformer_layers_per_block": down, "reverse_transformer_layers_per_block": up}
    depths = [d[0] or 1 for d in down]
    depths[-1] = down[-1][0] or middle
    if depths[-1] != middle:
        raise UnknownShapeError(f"a middle block as deep as the last level ({depths[-1]}), found {middle}")
    return {"transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths}


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that `pattern` finds at the start of a name; 0 where there is none."""
    compiled = re.compile(pattern)
    return max((int(m.group(1)) + 1 for name in shapes if (m := compiled.match(name))), default=0)
