"""The decoder of a host's U-Net while it is trained through: its layers keep no more than the gradient needs.

A host's weights may be inference tensors, which autograd cannot save; they may lie on another device, in eight bits, or
have a LoRA that is added where they are used.  So no layer keeps a weight for the backward pass: it asks the host for
it again.  What is kept is what the command line's frozen layers keep (training/memory/frozen_layers.py).

Layers get another `forward` while the context is open, as core's own trainer does for checkpointing: a copy of the
model, or a patch of its modules by name, would load all weights again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import GEGLU, BasicTransformerBlock, SpatialTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

aten = torch.ops.aten


@contextlib.contextmanager
def trained_through(unet: nn.Module, checkpointing: bool, cast: bool) -> Iterator[None]:
    """While open, gradients pass through the output blocks of `unet`, and the encoder needs none.

    checkpointing: residual and transformer blocks of the decoder are computed again in the backward pass.
    cast:          all layers compute in the dtype of their input, whatever their weights are stored in.
    """
    changed: list[nn.Module] = []
    casting: list[nn.Module] = []

    def replace(module: nn.Module, forward: Callable[..., Tensor]) -> None:
        if "forward" not in vars(module):  # a pack that has put its own there keeps it
            module.forward = forward
            changed.append(module)

    try:
        for module in unet.modules():
            if cast and getattr(module, _casts(module), True) is False:
                casting.append(module)
                setattr(module, _casts(module), True)
        for part in (unet.output_blocks, unet.out):
            for module in part.modules():
                _freeze(module, replace)
            for module in part.modules():
                forward = module.forward
                if checkpointing and isinstance(module, (ResBlock, BasicTransformerBlock)):
                    forward = _recomputed(forward)
                if isinstance(module, (ResBlock, SpatialTransformer)):
                    replace(module, _with_copies(forward))
                elif isinstance(module, BasicTransformerBlock):
                    replace(module, forward)
        yield
    finally:
        for module in changed:
            del module.forward
        for module in casting:
            setattr(module, _casts(module), False)


def _casts(module: nn.Module) -> str:
    """Where a host's layer says whether it casts its weights: aside while the host has offloaded them, which it may
    begin and end whenever it loads another model."""
    return "prev_comfy_cast_weights" if hasattr(module, "prev_comfy_cast_weights") else "comfy_cast_weights"


def attention(_chosen: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    """In place of the host's choice of attention, which may have no backward pass (`optimized_attention_override`).

    On a CPU plain products, whose backward pass takes half the time of PyTorch's fused attention.
    """
    q, k, v, heads = args[:4]
    mask = args[4] if len(args) > 4 else options.get("mask")
    if q.device.type != "cpu" or mask is not None or options.get("skip_reshape"):
        return attention_pytorch(*args, **options)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    unused = q.new_empty(1).expand(len(q), q.shape[1], k.shape[1])
    scores = torch.baddbmm(unused, q, k.mT, beta=0, alpha=q.shape[-1] ** -0.5)
    found = torch.bmm(scores.softmax(-1), v)
    return found.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def _freeze(module: nn.Module, replace: Callable[[nn.Module, Callable[..., Tensor]], None]) -> None:
    if isinstance(module, nn.Sequential):  # a norm and the SiLU after it are one
        for norm, act in zip(module, list(module)[1:], strict=False):
            if isinstance(norm, nn.GroupNorm) and type(act) is nn.SiLU:
                replace(norm, lambda x, norm=norm: _Norm.apply(x, norm, True))
                replace(act, lambda x: x)
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        replace(module, lambda x, layer=module, plain=module.forward: _Layer.apply(x, layer, plain))
    elif isinstance(module, nn.GroupNorm):
        replace(module, lambda x, norm=module: _Norm.apply(x, norm, False))
    elif isinstance(module, nn.LayerNorm):
        replace(module, lambda x, norm=module: _LayerNorm.apply(x, norm))
    elif isinstance(module, GEGLU):
        replace(module, lambda x, gate=module: _GatedGELU.apply(gate.proj(x)))


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def again(*args: Any, **options: Any) -> Tensor:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **options)

    return again


def _with_copies(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer whose batch may have been copied for several tuners: with as many copies of what else it is given."""

    def copied(x: Tensor, other: Tensor, *more: Any, **options: Any) -> Tensor:
        copies = len(x) // len(other)
        return forward(x, other.repeat(copies, *(1,) * (other.ndim - 1)) if copies > 1 else other, *more, **options)

    return copied


def _weight(layer: nn.Module, like: Tensor) -> tuple[Tensor | None, Tensor | None, Callable[[], None]]:
    """Weight and bias of a host's layer in the dtype and on the device of `like`, and what says that they were used."""
    if layer.weight is None:
        return None, None, lambda: None
    if not hasattr(layer, "weight_function"):  # no layer of the host's
        return *(None if t is None else t.to(like) for t in (layer.weight, layer.bias)), lambda: None
    if not hasattr(comfy.ops, "uncast_bias_weight"):  # before asynchronous offloading
        return *comfy.ops.cast_bias_weight(layer, like), lambda: None
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
    return weight, bias, lambda: comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


class _Layer(torch.autograd.Function):
    """A linear layer or convolution as the host runs it; keeps nothing."""

    @staticmethod
    def forward(ctx, x, layer, plain):
        ctx.layer, ctx.shape, ctx.dtype = layer, x.shape, x.dtype
        return plain(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        layer = ctx.layer
        weight, _, used = _weight(layer, grad)
        if isinstance(layer, nn.Linear):
            x_grad = grad @ weight
        else:
            geometry = layer.stride, layer.padding, layer.dilation, layer.groups
            x_grad = torch.nn.grad.conv2d_input(ctx.shape, weight, grad, *geometry)
        used()
        return x_grad.to(ctx.dtype), None, None


class _Norm(torch.autograd.Function):
    """A group norm and, where `silu`, a SiLU after it; keeps the norm's input."""

    @staticmethod
    def forward(ctx, x, norm, silu):
        ctx.save_for_backward(x)
        ctx.norm, ctx.silu = norm, silu
        weight, bias, used = _weight(norm, x)
        normed = F.group_norm(x, norm.num_groups, weight, bias, norm.eps)
        used()
        return F.silu(normed) if silu else normed

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,), norm = ctx.saved_tensors, ctx.norm
        weight, bias, used = _weight(norm, x)
        order = torch.contiguous_format
        if x.device.type == "cpu" and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
            order = torch.channels_last  # in which F.group_norm computes there
        x = x.contiguous(memory_format=order)
        size = (x.shape[0], x.shape[1], x[0, 0].numel(), norm.num_groups)
        normed, mean, rstd = aten.native_group_norm(x, weight, bias, *size, norm.eps)
        grad = (aten.silu_backward(grad, normed) if ctx.silu else grad).contiguous(memory_format=order)
        x_grad, _, _ = aten.native_group_norm_backward(grad, x, mean, rstd, weight, *size, [True, False, False])
        used()
        return x_grad, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, norm):
        weight, bias, used = _weight(norm, x)
        normed, mean, rstd = aten.native_layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
        used()
        ctx.save_for_backward(x, mean, rstd)
        ctx.norm = norm
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, mean, rstd = ctx.saved_tensors
        weight, bias, used = _weight(ctx.norm, x)
        shape, wanted = ctx.norm.normalized_shape, [True, False, False]
        x_grad, _, _ = aten.native_layer_norm_backward(grad.contiguous(), x, shape, mean, rstd, weight, bias, wanted)
        used()
        return x_grad, None


class _GatedGELU(torch.autograd.Function):
    """hidden * GELU(gate); keeps both before the GELU."""

    @staticmethod
    def forward(ctx, projected):
        ctx.save_for_backward(projected)
        hidden, gate = projected.chunk(2, dim=-1)
        return hidden * F.gelu(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, gate = ctx.saved_tensors[0].chunk(2, dim=-1)
        return torch.cat([grad * F.gelu(gate), aten.gelu_backward(grad * hidden, gate)], dim=-1)
