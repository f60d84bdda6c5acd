"""Tokenizer and text encoder of the embedded base: CLIP's classes, a vocabulary of the words that captions use."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES
from .styles import STYLE_WORDS

TEXT_LENGTH = 16
TEXT_WIDTH = 128


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train a byte-pair vocabulary in which each caption word is one token; any other text is spelled out."""
    words = sorted({w for text in (*BACKGROUNDS.values(), *PLACES.values()) for w in text.split()})
    words = [*words, *COLOURS, *SHAPES, *STYLE_WORDS, "and", "a", ","]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        show_progress=False,
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    learner.train_from_iterator([" ".join(words)] * 4, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    learner.model.save(str(folder))
    vocabulary = learner.get_vocab()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    for extra in (*(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"):
        vocabulary.setdefault(extra, len(vocabulary))
    merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text("utf-8").splitlines()[1:]]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_LENGTH)
    broken = [w for w in words if len(tokenizer(w, add_special_tokens=False).input_ids) != 1]
    if broken:
        raise RuntimeError(f"vocabulary: expected one token a word, found {broken} split; check the learner's merges")
    return tokenizer


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A fresh two-layer CLIPTextModel for `tokenizer`: token ids [B,16] to states [B,16,128]."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
    )


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]):
    """Captions to token ids [B, 16], padded and cut as StableDiffusionPipeline does."""
    return tokenizer(
        captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
