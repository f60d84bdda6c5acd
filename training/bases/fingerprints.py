"""Fingerprints of weights, under which caches of latents and text states are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

_CONFIG = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")  # what changes latents beside the weights


def weights_fingerprint(*modules: nn.Module) -> str:
    """16 hexadecimal digits that depend on every weight, its dtype and name, and on a VAE's scaling.

    Every byte is read: a fine-tune may differ in a few weights only.  Half a gigabyte takes about half a second on one
    core; the hash works outside Python's lock, so that several cores share it.
    """
    told = [[getattr(m.config, key, None) for key in _CONFIG] for m in modules]
    return _short(json.dumps(told).encode(), *_digests(modules))


def plain_fingerprint(told: list, *modules: nn.Module) -> str:
    """16 hexadecimal digits that depend on `told` and on every weight in bfloat16: the same for a model in float32."""
    return _short(json.dumps(told).encode(), *_digests(modules, torch.bfloat16))


def text_fingerprint(encoders: Iterable[nn.Module], tokenizers: Iterable) -> str:
    """16 hexadecimal digits that depend on the weights of text encoders and the words of their tokenizers."""
    told = [
        [sorted(t.get_vocab().items()), t.model_max_length, t.pad_token_id, t.eos_token_id, t(_PROBE).input_ids]
        for t in tokenizers
    ]
    return _short(weights_fingerprint(*encoders).encode(), json.dumps(told).encode())


# Words that another list of merges would cut in another way.
_PROBE = "A photograph of an Impressionist lighthouse, 35 mm; café at night, unbelievably detailed!"


def _digests(modules: Iterable[nn.Module], dtype: torch.dtype | None = None) -> list[bytes]:
    """Of all weights, as they are or in `dtype`."""

    def digest_of(named: tuple[str, Tensor]) -> bytes:
        name, tensor = named[0], named[1].detach().to(dtype=dtype)
        digest = hashlib.blake2b(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.digest()

    tensors = ((f"{i}/{name}", t) for i, module in enumerate(modules) for name, t in module.state_dict().items())
    with ThreadPoolExecutor(4) as workers:
        return list(workers.map(digest_of, tensors))


def _short(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
