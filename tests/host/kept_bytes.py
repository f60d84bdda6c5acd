"""Bytes that one training step on the embedded base keeps for its backward pass, in both ways of training.

As a script it counts the command line's: python kept_bytes.py PACK.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn


@contextlib.contextmanager
def counted(*modules: nn.Module) -> Iterator[list[int]]:
    """While open, adds up what autograd keeps, each storage once, without the parameters of `modules`."""
    known = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    total = [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            total[0] += storage.nbytes()
            held.append(tensor)  # so that its address stays its own
        return tensor

    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def step(base, tuner, text) -> torch.Tensor:
    """The loss of one step of a style, batch 2, 128 pixels."""
    draw = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 4, 16, 16, generator=draw)
    return base.predict(noisy, torch.tensor([100, 800]), text, None, [(tuner, 1.0, None)]).square().mean()


def main(pack: Path) -> None:
    """Print the count."""
    sys.path.insert(0, str(pack))
    from diffusers.models.attention_processor import AttnProcessor

    from scedit_core import SCTuner
    from training.bases.loading import load_base
    from training.config import MemoryConfig
    from training.memory.preparing import prepare_unet

    base = load_base(pack / "demo")
    base.unet.set_attn_processor(AttnProcessor())
    prepare_unet(base.unet, MemoryConfig(), torch.float32)
    tuner = SCTuner(base.layout)
    text = base.encode_captions(["a", "b"])
    with counted(base.unet, tuner) as total:
        step(base, tuner, text)
    print(total[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
