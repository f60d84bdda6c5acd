"""Layers whose weights never change, so that they keep no more for the backward pass than the gradient of their input.

Eager torch keeps the input of a convolution although a frozen weight needs no gradient, keeps
both the input and the output of the SiLU after a norm, and both factors of a gated GELU beside the gate.  The layers
here keep a norm's input or a gate's, compute the elementwise rest again, and call the same kernels in the same order:
outputs and gradients are equal to those of the layers that they replace, bit for bit.

Modules change class in place: names, parameters and hooks stay as they were.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from scedit_core.fitting.frozen import GatedGELU, group_norm_gradient


def freeze_layers(module: nn.Module) -> None:
    """Replace the convolutions, residual blocks and gated GELUs inside `module`, whose parameters are all frozen.

    Layers of another kind than those of SD and SDXL stay as they are.  Raises RuntimeError where a parameter is
    trainable, since it would get no gradient.
    """
    _refuse_trainable(module)
    for part in list(module.modules()):
        if type(part) is ResnetBlock2D:
            _freeze_residual_block(part)
    for part in module.modules():
        if type(part) is nn.Conv2d and can_freeze(part):
            part.__class__ = FrozenConv2d
        elif type(part) is GEGLU:
            part.__class__ = FrozenGEGLU


def freeze_output_layers(unet: nn.Module) -> None:
    """The same for what follows the last up block of a UNet2DConditionModel: norm, SiLU and convolution."""
    for part in (unet.conv_norm_out, unet.conv_out):
        if part is not None:
            _refuse_trainable(part)
    if type(unet.conv_norm_out) is nn.GroupNorm and type(unet.conv_act) is nn.SiLU:
        unet.conv_norm_out.__class__ = FrozenNormSiLU
        unet.conv_act = nn.Identity()
    if type(unet.conv_out) is nn.Conv2d and can_freeze(unet.conv_out):
        unet.conv_out.__class__ = FrozenConv2d


def can_freeze(conv: nn.Conv2d) -> bool:
    """Whether FrozenConv2d can stand in: zero padding given in numbers."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _freeze_residual_block(block: ResnetBlock2D) -> None:
    """Let both norms apply the SiLU that follows them, and the block's own SiLU nothing.

    The block applies its one activation to the timestep's embedding too; the projection of that takes it over.
    """
    norms = (block.norm1, block.norm2)
    plain = block.time_embedding_norm == "default" and type(block.nonlinearity) is nn.SiLU
    if not plain or any(type(norm) is not nn.GroupNorm for norm in norms):
        return
    if block.time_emb_proj is not None and not block.skip_time_act:
        if type(block.time_emb_proj) is not nn.Linear:
            return
        block.time_emb_proj.__class__ = SiLULinear
    for norm in norms:
        norm.__class__ = FrozenNormSiLU
    block.nonlinearity = nn.Identity()


def _refuse_trainable(module: nn.Module) -> None:
    trainable = [name for name, p in module.named_parameters() if p.requires_grad]
    if trainable:
        raise RuntimeError(
            f"frozen layers: expected parameters without requires_grad, found {trainable[0]} and "
            f"{len(trainable) - 1} more with it; call requires_grad_(False) first"
        )


class FrozenConv2d(nn.Conv2d):
    """A convolution that keeps its weight for the backward pass, not its input."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B,C,h,w] -> [B,C',h',w']."""
        return FrozenConvolution.apply(
            x, self.weight, None, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class FrozenNormSiLU(nn.GroupNorm):
    """SiLU after a group norm; keeps the norm's input."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B,C,h,w] -> the same shape."""
        return _NormSiLU.apply(x, self.weight, self.bias, self.num_groups, self.eps)


class FrozenGEGLU(GEGLU):
    """A projection and a gated GELU; keeps the projection's output."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states [B,L,D] -> [B,L,D']."""
        return GatedGELU.apply(self.proj(hidden_states))


class SiLULinear(nn.Linear):
    """A linear layer after a SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B,D] -> [B,D']."""
        return super().forward(F.silu(x))


def full_weight(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The weight in `dtype`; one with a `scale` holds the bits of float8 numbers to be multiplied by it (float8.py)."""
    return weight if scale is None else weight.view(torch.float8_e4m3fn).to(dtype).mul_(scale)


class FrozenConvolution(torch.autograd.Function):
    """Convolution of x [B,C,h,w]; keeps the weight as it is stored."""

    @staticmethod
    def forward(ctx, x, weight, scale, bias, stride, padding, dilation, groups):
        ctx.save_for_backward(weight, scale)
        ctx.geometry, ctx.shape = (stride, padding, dilation, groups), x.shape
        return F.conv2d(x, full_weight(weight, scale, x.dtype), bias, *ctx.geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight = full_weight(*ctx.saved_tensors, grad.dtype)
        return (torch.nn.grad.conv2d_input(ctx.shape, weight, grad, *ctx.geometry), *(None,) * 7)


class FrozenProjection(torch.autograd.Function):
    """Linear map of x [...,D]; keeps the weight as it is stored."""

    @staticmethod
    def forward(ctx, x, weight, scale, bias):
        ctx.save_for_backward(weight, scale)
        return F.linear(x, full_weight(weight, scale, x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad @ full_weight(*ctx.saved_tensors, grad.dtype), None, None, None


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps):
        ctx.save_for_backward(x, weight, bias)
        ctx.groups, ctx.eps = groups, eps
        return F.silu(F.group_norm(x, groups, weight, bias, eps))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, bias = ctx.saved_tensors
        return group_norm_gradient(grad, x, weight, bias, ctx.groups, ctx.eps, True), None, None, None, None
