"""The trainer makes the same tokens of a caption as the host does of a prompt, with the host's own tokenizer files."""

from __future__ import annotations

import importlib
import json
import sys

import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.text_encoders.sd2_clip
import pytest
from conftest import HOST_ROOT, PACK_ROOT

CAPTIONS = ["a photo of a cat, very detailed", "", "Café at 35 mm: don't!", "an unbelievably long text " * 30]
FAMILIES = {
    "sd15": (comfy.sd1_clip.SD1Tokenizer, {"tokenizer": "l"}),
    "sd2": (comfy.text_encoders.sd2_clip.SD2Tokenizer, {"tokenizer": "h"}),
    "sdxl": (comfy.sdxl_clip.SDXLTokenizer, {"tokenizer": "l", "tokenizer_2": "g"}),
}


@pytest.fixture
def trainer(monkeypatch):
    """The trainer's modules that find tokenizers, imported with the pack's root behind the host's."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(PACK_ROOT)])
    monkeypatch.setenv("COMFYUI_PATH", str(HOST_ROOT))
    return importlib.import_module("training.bases.tokenizer_files")


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_the_hosts(trainer, tmp_path, family):
    kind, parts = FAMILIES[family]
    theirs = kind(embedding_directory=str(tmp_path))
    found = trainer.find_tokenizer(tmp_path / "base.safetensors")
    assert HOST_ROOT in found.parents
    for part, letter in parts.items():
        place = PACK_ROOT / "training/bases/configs" / family / part.replace("tokenizer", "text_encoder")
        tokenizer = trainer.load_tokenizer(found, json.loads((place / "config.json").read_text("utf-8")))
        ids = tokenizer(CAPTIONS, padding="max_length", max_length=77, truncation=True).input_ids
        for caption, ours in zip(CAPTIONS, ids, strict=True):
            first = theirs.tokenize_with_weights(caption)[letter][0]  # the host encodes what is beyond it apart
            assert ours == [int(token) for token, *_ in first], (part, caption)
