"""The trainer encodes a caption as the host encodes a prompt: in chunks, from any layer, and with weights in brackets.

Both sides have the host's tokenizer and the same small random weights.
"""

from __future__ import annotations

import importlib
import json
import sys

import comfy.sd1_clip
import comfy.sdxl_clip
import pytest
import torch
from conftest import HOST_ROOT, PACK_ROOT
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 96}
BIG = {"hidden_size": 80, "num_attention_heads": 4, "num_hidden_layers": 5, "intermediate_size": 96}
LONG = "a lighthouse on a cliff above the sea at dusk, with unbelievably detailed rocks and gulls, " * 9
WEIGHTED = r"a (red:1.4) boat, ((very old)), an \(escaped\) one (of wood:0.5), (a (nested:0.7) part) and (no weight: x)"
CAPTIONS = ["", "a photo of a cat", LONG, f"{WEIGHTED}, {LONG}, {WEIGHTED}"]


@pytest.fixture
def trainer(monkeypatch):
    """The trainer's modules, imported with the pack's root behind the host's."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACK_ROOT)])
    monkeypatch.setenv("COMFYUI_PATH", str(HOST_ROOT))
    return {name: importlib.import_module(f"training.bases.{name}") for name in ("tokenizer_files", "text_encoding")}


def randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    chance = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=chance) * (0.3 if p.ndim == 1 else 0.2)
    return module.eval()


def host_encoder(family: str):
    """The host's encoder with small random weights, and its modules that ours correspond to."""
    options = {"clip_l_model_config": SMALL, "clip_g_model_config": BIG}
    if family == "sd15":
        model = randomised(comfy.sd1_clip.SD1ClipModel(dtype=torch.float32, model_options=options), 0)
        return model, [model.clip_l]
    model = randomised(comfy.sdxl_clip.SDXLClipModel(dtype=torch.float32, model_options=options), 0)
    return model, [model.clip_l, model.clip_g]


def ours(trainer, family: str, theirs: list) -> tuple[list, list]:
    """Our tokenizers and encoders, with the weights of the host's."""
    tokenizers, encoders = [], []
    found = trainer["tokenizer_files"].find_tokenizer(HOST_ROOT / "base.safetensors")
    for number, module in enumerate(theirs):
        name = "text_encoder_2" if number else "text_encoder"
        config = json.loads((PACK_ROOT / "training/bases/configs" / family / name / "config.json").read_text("utf-8"))
        tokenizers.append(trainer["tokenizer_files"].load_tokenizer(found, config))
        config |= (BIG | {"projection_dim": BIG["hidden_size"]}) if number else SMALL
        config["eos_token_id"] = tokenizers[-1].eos_token_id
        encoder = (CLIPTextModelWithProjection if number else CLIPTextModel)(CLIPTextConfig(**config)).eval()
        weights = {k.removeprefix("transformer."): v for k, v in module.state_dict().items() if "logit" not in k}
        inner = getattr(encoder, "text_model", encoder)
        own = {k.removeprefix("text_model."): v for k, v in weights.items() if k.startswith("text_model.")}
        told = inner.load_state_dict(own, strict=False)
        assert not [key for key in told.missing_keys if "position_ids" not in key]
        if number:
            encoder.text_projection.weight.data = weights["text_projection.weight"]
        encoders.append(encoder)
    return tokenizers, encoders


def tokens_of(family: str, folder, caption: str, weights: bool) -> dict:
    kind = comfy.sd1_clip.SD1Tokenizer if family == "sd15" else comfy.sdxl_clip.SDXLTokenizer
    return kind(embedding_directory=str(folder)).tokenize_with_weights(caption, disable_weights=not weights)


@pytest.mark.parametrize("weights", [False, True], ids=["text", "weights"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@torch.no_grad()
def test_long_captions_are_encoded_as_by_the_host(trainer, tmp_path, family, weights):
    model, parts = host_encoder(family)
    tokenizers, encoders = ours(trainer, family, parts)
    encoding = trainer["text_encoding"]
    options = encoding.TextOptions(max_tokens=750, weights=weights)
    lengths = []
    for caption in CAPTIONS:
        states, pooled = model.encode_token_weights(tokens_of(family, tmp_path, caption, weights))[:2]
        found = encoding.encode(caption, options, tokenizers, encoders, family == "sdxl")
        assert found.states.shape == states.shape
        assert (found.states - states).abs().max() <= 1e-4 * states.abs().max()
        if family == "sdxl":
            assert (found.pooled - pooled).abs().max() <= 1e-4 * pooled.abs().max()
        lengths.append(states.shape[1])
    assert lengths[:2] == [77, 77]
    assert lengths[2] >= 3 * 77
    cut = encoding.encode(LONG, encoding.TextOptions(max_tokens=150), tokenizers, encoders, family == "sdxl")
    assert cut.states.shape[1] == 154


@torch.no_grad()
def test_clip_skip_is_counted_as_by_the_host(trainer, tmp_path):
    model, parts = host_encoder("sd15")
    tokenizers, encoders = ours(trainer, "sd15", parts)
    encoding = trainer["text_encoding"]
    seen = []
    for layer in (-1, -2, -3):
        model.set_clip_options({"layer": layer})
        states = model.encode_token_weights(tokens_of("sd15", tmp_path, LONG, False))[0]
        options = encoding.TextOptions(max_tokens=750, layer=None if layer == -1 else layer)
        found = encoding.encode(LONG, options, tokenizers, encoders, False).states
        assert (found - states).abs().max() <= 1e-4 * states.abs().max()
        seen.append(states)
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[1], seen[2])
