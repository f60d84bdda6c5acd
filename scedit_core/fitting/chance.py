"""The one source of chance: a generator for each step and purpose, so that there is no random state to save."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, step: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on nothing but (seed, step, purpose).

    Whoever draws for a batch draws for the whole of it, on every process, and takes its own rows of the result: two
    processes then see what one with twice the batch would.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
