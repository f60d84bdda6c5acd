"""The frozen U-Net stored in 8 bits and computed in the run's precision.

Casting a layer before and after its forward, as diffusers' layerwise casting does, saves nothing in the decoder while
training: autograd keeps the cast weight until the backward pass.  The layers here keep the 8-bit weight and cast it
again.

Weights are float8_e4m3fn, each output channel times a power of two that brings its largest weight just under the
format's largest number.  Powers of two multiply without rounding; without them most weights of a U-Net, which are
smaller than the format's smallest normal number, would lose half of their bits.

The numbers lie in uint8 tensors, as bits: what casts or synchronises all floating weights of a model, such as
`Module.to` and DistributedDataParallel, which cannot take float8, leaves them alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .frozen_layers import FrozenConv2d, FrozenConvolution, FrozenProjection, can_freeze

_LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448
# Small, and every step depends on them: the first and last convolution and what embeds the timestep.
_KEPT = ("conv_in", "conv_out", "time_embedding", "add_embedding", "time_emb_proj")


class Float8Conv2d(nn.Conv2d):
    """A frozen convolution with an 8-bit weight [C',C,k,k] and a `weight_scale` [C',1,1,1]."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B,C,h,w] -> [B,C',h',w']."""
        return FrozenConvolution.apply(
            x, self.weight, self.weight_scale, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Float8Linear(nn.Linear):
    """A frozen linear layer with an 8-bit weight [D',D] and a `weight_scale` [D',1]."""

    def forward(self, x: Tensor) -> Tensor:
        """x [...,D] -> [...,D']."""
        return FrozenProjection.apply(x, self.weight, self.weight_scale, self.bias)


def store_in_8_bits(unet: nn.Module) -> None:
    """Store the weights of convolutions and linear layers in 8 bits, all but those of the layers named in `_KEPT`.

    They are computed in the dtype of their input, which has to be that of norms and biases.  To be called once.
    """
    for name, layer in unet.named_modules():
        if any(part in _KEPT for part in name.split(".")):
            continue
        if type(layer) is nn.Linear:
            layer.__class__ = Float8Linear
        elif type(layer) in (nn.Conv2d, FrozenConv2d) and can_freeze(layer):
            layer.__class__ = Float8Conv2d
        else:
            continue
        stored, scale = to_8_bits(layer.weight)
        layer.weight = nn.Parameter(stored, requires_grad=False)
        layer.register_buffer("weight_scale", scale, persistent=False)


def to_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [C',...] -> bits of float8 numbers (uint8, same shape), and scales [C',1,...] in the weight's dtype.

    The weight is about the numbers times the scales: `frozen_layers.full_weight`.
    """
    peaks = weight.detach().float().abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    # no smaller than float16's smallest number, so that the scale is exact in all three precisions
    scale = torch.exp2(torch.ceil(torch.log2(peaks / _LARGEST)).clamp(min=-24))
    scale = scale.reshape(-1, *(1,) * (weight.ndim - 1))
    stored = (weight.detach().float() / scale).to(torch.float8_e4m3fn)
    return stored.view(torch.uint8), scale.to(weight.dtype)
