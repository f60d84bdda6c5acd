"""Small random base models of each family, as diffusers pipelines and as the weights of single checkpoint files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import safetensors.torch
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training.bases.single_file import CONFIGS

FAMILIES = ("sd15", "sd2", "sdxl")
_SMALL = {
    "sd15": {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 64},
    "sd2": {
        "block_out_channels": [32, 64, 128, 128],
        "cross_attention_dim": 64,
        "attention_head_dim": [1, 1, 2, 2],
        "layers_per_block": 1,
    },
    "sdxl": {
        "block_out_channels": [32, 64, 128],
        "cross_attention_dim": 192,
        "attention_head_dim": [1, 1, 2],
        "transformer_layers_per_block": [1, 2, 3],
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 128 + 6 * 16,
    },
}


def write_tokenizer(folder: Path) -> Path:
    """CLIP's tokenizer files with single letters and a few words, laid out as a ComfyUI checkout has them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("s", "t"), ("a", "r</w>"), ("st", "ar</w>"), ("r", "e"), ("re", "d</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m) for m in merges)]
    words = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(words), "utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    told = {"model_max_length": 8192, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), "utf-8")
    return folder


def released_configs(family: str) -> dict[str, dict]:
    """The configs of a family as it was released, by part."""
    return {p.parent.name: json.loads(p.read_text("utf-8")) for p in (CONFIGS / family).glob("*/*.json")}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with `prefix` before each name."""
    return {prefix + name: tensor for name, tensor in state.items()}


def small_pipeline(family: str, tokenizer_folder: Path) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """A pipeline of `family` with every weight random, so that a mix-up of any two shows."""
    configs = released_configs(family)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, model_max_length=77)
    open_clip = CLIPTokenizer.from_pretrained(tokenizer_folder, model_max_length=77)
    open_clip.pad_token = "!"
    if family == "sd2":
        tokenizer = open_clip
    vae = configs["vae"] | {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}
    modules: dict[str, nn.Module] = {
        "unet": UNet2DConditionModel.from_config(configs["unet"] | _SMALL[family]),
        "vae": AutoencoderKL.from_config(vae),
        "text_encoder": CLIPTextModel(_text_config(configs["text_encoder"], tokenizer, 64)),
    }
    if family == "sdxl":
        config = _text_config(configs["text_encoder_2"], tokenizer, 128)
        modules["text_encoder_2"] = CLIPTextModelWithProjection(config)
    for seed, module in enumerate(modules.values()):
        _randomise(module, seed)
    scheduler = DDIMScheduler.from_config(configs["scheduler"])
    if family == "sdxl":
        return StableDiffusionXLPipeline(
            **modules, tokenizer=tokenizer, tokenizer_2=open_clip, scheduler=scheduler, add_watermarker=False
        )
    return StableDiffusionPipeline(
        **modules,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def checkpoint_weights(pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline) -> dict[str, Tensor]:
    """The pipeline's weights under the names of a single checkpoint file."""
    unet, vae, text = (m.state_dict() for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder))
    second = getattr(pipeline, "text_encoder_2", None)
    state = prefixed("model.diffusion_model.", unet_names(unet, pipeline.unet.config))
    state |= prefixed("first_stage_model.", vae_names(vae))
    if second is not None:
        state |= prefixed("conditioner.embedders.0.transformer.", clip_names(text))
        state |= prefixed("conditioner.embedders.1.model.", open_clip_names(second.state_dict()))
    elif pipeline.unet.config.use_linear_projection:  # SD 2.x: its file has one layer more than is used
        text = clip_names(text)
        text |= {k.replace(".1.", ".2."): torch.randn_like(v) for k, v in text.items() if ".layers.1." in k}
        text["text_projection.weight"] = torch.randn(64, 64)
        state |= prefixed("cond_stage_model.model.", open_clip_names(text))
    else:
        state |= prefixed("cond_stage_model.transformer.", clip_names(text))
    return {k: v.contiguous() for k, v in state.items()}


def write_checkpoint(path: Path, state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write a single checkpoint file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path, metadata)
    return path


def write_full_sd15(path: Path) -> Path:
    """Write a checkpoint of the true SD 1.5 shape with random weights: 2.1 GB in float16."""
    configs = released_configs("sd15")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        text = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    state = prefixed("model.diffusion_model.", unet_names(unet.state_dict(), unet.config))
    state |= prefixed("first_stage_model.", vae_names(vae.state_dict()))
    state |= prefixed("cond_stage_model.transformer.", clip_names(text.state_dict()))
    # One pool of noise for all, since drawing a billion numbers one by one takes too long.
    pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).half()
    return write_checkpoint(path, {k: _noise_like(k, v, pool) for k, v in state.items() if v.is_floating_point()})


def unet_names(state: dict[str, Tensor], config) -> dict[str, Tensor]:
    """Weights of diffusers' U-Net under the names of latent-diffusion's."""
    per_level = config["layers_per_block"] + 1
    with_attention = {int(k.split(".")[1]) for k in state if re.match(r"up_blocks\.\d+\.attentions", k)}

    def named(key: str) -> str:
        if m := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", key):
            number = int(m[2]) * per_level + int(m[4])
            block = f"input_blocks.{number + 1}" if m[1] == "down" else f"output_blocks.{number}"
            return f"{block}.0.{_resnet_name(m[5])}" if m[3] == "resnets" else f"{block}.1.{m[5]}"
        if m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", key):
            return f"input_blocks.{(int(m[1]) + 1) * per_level}.0.op.{m[2]}"
        if m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", key):
            place = 2 if int(m[1]) in with_attention else 1
            return f"output_blocks.{(int(m[1]) + 1) * per_level - 1}.{place}.{m[2]}"
        if m := re.match(r"mid_block\.resnets\.(\d)\.(.*)", key):
            return f"middle_block.{2 * int(m[1])}.{_resnet_name(m[2])}"
        if m := re.match(r"mid_block\.attentions\.0\.(.*)", key):
            return f"middle_block.1.{m[1]}"
        return _begin(key, _UNET_ENDS)

    return {named(key): tensor for key, tensor in state.items()}


_UNET_ENDS = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}


def _resnet_name(rest: str) -> str:
    return _begin(rest, _RESNET)


def _begin(key: str, names: dict[str, str]) -> str:
    (start,) = (start for start in names if key.startswith(start))
    return names[start] + key[len(start) :]


def vae_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of diffusers' AutoencoderKL under the names of latent-diffusion's."""
    levels = 1 + max(int(m.group(1)) for k in state if (m := re.match(r"decoder\.up_blocks\.(\d+)", k)))
    named = {}
    for key, tensor in state.items():
        key = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m.group(1))}", key)
        key = re.sub(r"down_blocks\.(\d+)", r"down.\1", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m.group(1)) + 1}", key)
        for ours, theirs in _VAE_PARTS.items():
            key = key.replace(ours, theirs)
        if "mid_block.attentions.0." in key:
            key = key.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
            key = re.sub(r"to_([qkv])\.", r"\1.", key).replace("to_out.0.", "proj_out.")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        named[key] = tensor
    return named


_VAE_PARTS = {
    "resnets.": "block.",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
}


def clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of CLIPTextModel with the prefix that newer versions of transformers leave out."""
    return {k if k.startswith(("text_model.", "text_projection")) else "text_model." + k: v for k, v in state.items()}


def open_clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of CLIP's text model under the names of OpenCLIP's, which has one matrix for query, key and value."""
    state = clip_names(state)
    named = {
        "token_embedding.weight": state.pop("text_model.embeddings.token_embedding.weight"),
        "positional_embedding": state.pop("text_model.embeddings.position_embedding.weight"),
        "text_projection": state.pop("text_projection.weight").T.contiguous(),
        "ln_final.weight": state.pop("text_model.final_layer_norm.weight"),
        "ln_final.bias": state.pop("text_model.final_layer_norm.bias"),
    }
    for key in list(state):
        if key.endswith("position_ids"):
            continue
        if ".q_proj." in key:
            three = [state[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            at = re.sub(r".*layers\.(\d+)\.self_attn\.q_proj\.", r"transformer.resblocks.\1.attn.in_proj_", key)
            named[at] = torch.cat(three)
        elif ".k_proj." not in key and ".v_proj." not in key:
            at = key.replace("text_model.encoder.layers.", "transformer.resblocks.").replace("self_attn", "attn")
            at = at.replace("layer_norm", "ln_").replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
            named[at] = state[key]
    return named


def _text_config(config: dict, tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    small = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": width, "num_hidden_layers": 2}
    return CLIPTextConfig(**config | small | ids | {"vocab_size": len(tokenizer), "num_attention_heads": width // 64})


def _randomise(module: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=draw)
            around = float("norm" in name and name.endswith("weight"))
            p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else around + 0.05 * noise)
    module.eval()


def _noise_like(name: str, tensor: Tensor, pool: Tensor) -> Tensor:
    """Weights of std 1/sqrt(fan in), biases of 0.02, norms around one, in float16."""
    size = tensor.numel()
    flat = pool.repeat(-(-size // len(pool)))[:size].reshape(tensor.shape)
    if tensor.ndim > 1:
        return flat * tensor.shape[1:].numel() ** -0.5
    return flat * 0.02 + float(name.endswith("weight"))
