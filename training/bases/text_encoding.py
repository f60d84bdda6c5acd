"""Captions to text states as ComfyUI's encoder makes them: in chunks, from the layer that is asked for, with weights.

Source: `comfy/sd1_clip.py` of ComfyUI.  A caption goes into chunks of 75 tokens, each with a beginning and an end of
its own; their states stand one after the other, and SDXL's pooled state is that of the first.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from scedit_core.errors import BaseModelError
from scedit_core.fitting.base import TextStates

CHUNK = 75  # tokens of a chunk, beside its beginning and end
_WHOLE = 8  # a part of fewer tokens is not parted between two chunks
_ESCAPED = (("\\)", "\0\1"), ("\\(", "\0\2"))

Token = tuple[int, float]


@dataclass(frozen=True)
class TextOptions:
    """How captions are encoded; see training/config_data.py, TextConfig.

    max_tokens: 75 for each chunk, or what the encoder reads at once where that is less.
    layer: of `hidden_states`, counted from the end as ComfyUI counts; None is the base's own.
    """

    max_tokens: int = CHUNK
    layer: int | None = None
    weights: bool = False

    @property
    def chunks(self) -> int:
        """How many are read of a caption."""
        return self.max_tokens // CHUNK

    @property
    def plain(self) -> bool:
        """Whether captions are encoded as the base's own pipeline does."""
        return self == PLAIN


PLAIN = TextOptions()


def layer_of(clip_skip: int | None, layers: int, sdxl: bool, family: str | None) -> int | None:
    """The layer for `TextOptions`.  layers: of the first text encoder.  family: "sd2" is counted from the layer before.

    Raises BaseModelError for one that the base does not have, or that its U-Net does not know.
    """
    if sdxl:
        if clip_skip not in (None, -2):
            raise BaseModelError(
                f"text.clip_skip: expected -2 or none for SDXL, whose U-Net knows that layer alone, found {clip_skip}; "
                "take it out"
            )
        return None
    if clip_skip is None:
        return None
    unread = 1 if family == "sd2" else 0  # ComfyUI counts the last layer too, which SD 2.x does not read
    if not 1 + unread <= -clip_skip <= layers:
        raise BaseModelError(
            f"text.clip_skip: expected from {-1 - unread} to {-layers}, since the text encoder has "
            f"{layers + unread} layers, found {clip_skip}; correct it"
        )
    return None if clip_skip == -1 - unread else clip_skip + unread


def encode(
    caption: str, options: TextOptions, tokenizers: Sequence[CLIPTokenizer], encoders: Sequence[nn.Module], sdxl: bool
) -> TextStates:
    """One row of text states [1,77n,D] for the n chunks of a caption.

    encoders: CLIP's, and for `sdxl` the one with a projection after it, whose pooled state is given.
    """
    parts, pooled = [], None
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        rows = chunks(caption, options, tokenizer)
        weighted = any(weight != 1 for row in rows for _, weight in row)
        empty = [(tokenizer.bos_token_id, 1.0), (tokenizer.eos_token_id, 1.0)]
        read = [*rows, _filled(empty, tokenizer)] if weighted else rows
        ids = torch.tensor([[token for token, _ in row] for row in read], device=encoder.device)
        found = encoder(ids, output_hidden_states=True, return_dict=True)
        states = _layer(found, encoder, options.layer, sdxl)
        if weighted:
            factors = torch.tensor([[w for _, w in row] for row in rows]).to(states)[..., None]
            states = torch.where(factors == 1, states[:-1], (states[:-1] - states[-1]) * factors + states[-1])
        parts.append(states.reshape(1, -1, states.shape[-1]))
        if sdxl and hasattr(found, "text_embeds"):
            pooled = found.text_embeds[:1]
    length = min(part.shape[1] for part in parts)
    return TextStates(torch.cat([part[:, :length] for part in parts], -1), pooled)


def chunks(caption: str, options: TextOptions, tokenizer: CLIPTokenizer) -> list[list[Token]]:
    """Tokens and weights of the chunks that a caption is read in, each as long as the encoder reads at once (77); what
    is beyond `options.chunks` is cut off."""
    begin, end = (tokenizer.bos_token_id, 1.0), (tokenizer.eos_token_id, 1.0)
    rows: list[list[Token]] = [[begin]]
    for part, weight in parts_of(caption, options.weights):
        tokens = [(token, weight) for token in tokenizer(part, add_special_tokens=False).input_ids]
        large = len(tokens) >= _WHOLE
        while tokens:
            room = tokenizer.model_max_length - 1 - len(rows[-1])
            if len(tokens) <= room:
                rows[-1] += tokens
                break
            if large:
                rows[-1] += tokens[:room]
                tokens = tokens[room:]
            rows[-1].append(end)
            rows.append([begin])
    rows[-1].append(end)
    return [_filled(row, tokenizer) for row in rows[: options.chunks]]


def token_count(caption: str, options: TextOptions, tokenizer: CLIPTokenizer) -> int:
    """How many tokens a caption has, beginning and end included."""
    parts = (part for part, _ in parts_of(caption, options.weights))
    return 2 + sum(len(tokenizer(part, add_special_tokens=False).input_ids) for part in parts)


def parts_of(caption: str, weights: bool) -> list[tuple[str, float]]:
    r"""The parts of a caption with their weights: (this) counts 1.1 times, (that:1.4) as often as it says; \( is text.

    Without `weights` brackets are text.
    """
    for written, hidden in _ESCAPED:
        caption = caption.replace(written, hidden)
    found = _weighted(caption, 1.0) if weights else [(caption, 1.0)]
    for written, hidden in _ESCAPED:
        found = [(part.replace(hidden, written[1]), weight) for part, weight in found]
    return [(part, weight) for part, weight in found if part]


def _weighted(text: str, weight: float, depth: int = 0) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for part in _bracketed(text):
        if not (len(part) >= 2 and part[0] == "(" and part[-1] == ")") or depth > 100:
            found.append((part, weight))
            continue
        inner, own = part[1:-1], weight * 1.1
        at = inner.rfind(":")
        if at > 0:
            with contextlib.suppress(ValueError):  # a colon of the text
                inner, own = inner[:at], float(inner[at + 1 :])
        found += _weighted(inner, own, depth + 1)
    return found


def _bracketed(text: str) -> list[str]:
    """The text cut before each outermost opening bracket and after its closing one."""
    cuts, depth = [0], 0
    for at, letter in enumerate(text):
        if letter == "(":
            cuts += [at] * (depth == 0)
            depth += 1
        elif letter == ")":
            depth -= 1
            cuts += [at + 1] * (depth == 0)
    parts = (text[a:b] for a, b in itertools.pairwise([*cuts, len(text)]))
    return [part for part in parts if part]


def _filled(row: list[Token], tokenizer: CLIPTokenizer) -> list[Token]:
    return row + [(tokenizer.pad_token_id, 1.0)] * (tokenizer.model_max_length - len(row))


def _layer(found, encoder: nn.Module, layer: int | None, sdxl: bool) -> Tensor:
    """The states that a layer gives: SDXL's without the last norm, all others' with it."""
    if sdxl:
        return found.hidden_states[-2 if layer is None else layer]
    if layer is None:
        return found.last_hidden_state
    return getattr(encoder, "text_model", encoder).final_layer_norm(found.hidden_states[layer])
