"""ControlNet-LLLite for SD 1.5 and SDXL in ComfyUI, with random weights, for benchmarks/inference.py.

ComfyUI's own node applies one to the Anima model alone.  This is the network of kohya-ss/sd-scripts
(networks/control_net_lllite.py) at its defaults, put where the node of its author puts it: before the queries, keys and
values of self-attention and the queries of cross-attention, in the encoder and the middle block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_EMBEDDING, _WIDTH = 32, 64
# Of the hint's convolutions, by how much smaller than the latent it is; the last is that of SD 1.5's middle block,
# for which no LLLite was published.
_STRIDES = {1: (4, 2), 2: (4, 4), 4: (4, 4, 2), 8: (4, 4, 4)}


class LLLite(nn.Module):
    """A patch of attention: two linear layers around the hint's features and a third, for each input of attention."""

    def __init__(self, unet: nn.Module, image: Tensor) -> None:
        """unet: the host's U-Net.  image: [1,H,W,3] in 0..1."""
        super().__init__()
        self.image, self.scale, self.parts = image.movedim(-1, 1) * 2 - 1, 1, nn.ModuleDict()
        self._features: dict[str, Tensor] = {}  # of one image, made once
        for name, blocks in (("input", unet.input_blocks), ("middle", [unet.middle_block])):
            for i, block in enumerate(blocks):
                for layer in block:
                    if type(layer).__name__ == "SpatialTransformer":
                        for j, each in enumerate(layer.transformer_blocks):
                            self._add(f"{name} {i} {j}", each.attn1.to_q.in_features)
                    self.scale *= 2 if type(layer).__name__ == "Downsample" else 1

    def _add(self, place: str, channels: int) -> None:
        for target in ("self q", "self k", "self v", "cross q"):
            hint, wide = [], 3
            for n, stride in enumerate(_STRIDES[self.scale]):
                narrow = _EMBEDDING if n == len(_STRIDES[self.scale]) - 1 else _EMBEDDING // 2
                hint += [nn.Conv2d(wide, narrow, stride, stride), nn.ReLU()]
                wide = narrow
            self.parts[f"{place} {target}"] = nn.ModuleDict({
                "hint": nn.Sequential(*hint[:-1]), "down": nn.Linear(channels, _WIDTH),
                "mid": nn.Linear(_WIDTH + _EMBEDDING, _WIDTH), "up": nn.Linear(_WIDTH, channels),
            })  # fmt: skip

    def forward(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """What the host calls with the inputs of an attention's three projections, each [B,N,C]."""
        kind, i = options["block"]
        alone = q.shape[-1] == k.shape[-1]
        place = f"{kind} {i} {options['block_index']} {'self' if alone else 'cross'}"
        return tuple(self._moved(f"{place} {name}", x) for name, x in zip("qkv", (q, k, v), strict=True))

    def _moved(self, name: str, x: Tensor) -> Tensor:
        if name not in self.parts:
            return x
        part = self.parts[name]
        if name not in self._features:
            self._features[name] = part["hint"](self.image.to(x)).flatten(2).transpose(1, 2)
        both = torch.cat([self._features[name].expand(len(x), -1, -1), part["down"](x).relu()], dim=-1)
        return x + 0.5 * part["up"](part["mid"](both).relu())
