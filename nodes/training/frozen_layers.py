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

from ...scedit_core.fitting.frozen import GatedGELU, group_norm_gradient

aten = torch.ops.aten
_HOST_LAYER = comfy.ops.CastWeightBiasOp
_QUANTISED = getattr(comfy.ops, "QuantizedTensor", ())  # newer hosts


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
    if isinstance(module, (nn.Linear, nn.Conv2d)) or _is_linear(module):
        replace(module, lambda x, layer=module, plain=module.forward: _Layer.apply(x, layer, plain))
    elif isinstance(module, nn.GroupNorm):
        replace(module, lambda x, norm=module: _Norm.apply(x, norm, False))
    elif isinstance(module, nn.LayerNorm):
        replace(module, lambda x, norm=module: _LayerNorm.apply(x, norm))
    elif isinstance(module, GEGLU):
        replace(module, lambda x, gate=module: GatedGELU.apply(gate.proj(x)))


def _is_linear(module: nn.Module) -> bool:
    """Whether it is the host's linear layer of quantised weights, which is no nn.Linear."""
    return isinstance(module, _HOST_LAYER) and hasattr(module, "in_features")


def _is_foreign(layer: nn.Module) -> bool:
    """Whether the layer computes in a way of its own.

    From what it stores to its weight, as those of packs for GGUF, or around its input, as those of packs for seamless
    pictures, which pad it with what lies at its other side.
    """
    if isinstance(layer, nn.Conv2d) and ("_conv_forward" in vars(layer) or layer.padding_mode != "zeros"):
        return True
    if not isinstance(layer, _HOST_LAYER):
        return False
    ways = (getattr(type(layer), name, None) for name in ("forward_comfy_cast_weights", "cast_bias_weight"))
    return any(way is not None and way.__module__ != comfy.ops.__name__ for way in ways)


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
    full = weight.dequantize() if isinstance(weight, _QUANTISED) else weight
    return full, bias, lambda: comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


class _Layer(torch.autograd.Function):
    """A linear layer or convolution as the host runs it; keeps nothing."""

    @staticmethod
    def forward(ctx, x, layer, plain):
        ctx.layer, ctx.plain, ctx.shape, ctx.dtype = layer, plain, x.shape, x.dtype
        return plain(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        layer = ctx.layer
        if _is_foreign(layer):  # the gradient of a linear map is the same everywhere
            with torch.enable_grad():
                x = grad.new_zeros(ctx.shape, dtype=ctx.dtype).requires_grad_()
                return torch.autograd.grad(ctx.plain(x), x, grad)[0], None, None
        weight, _, used = _weight(layer, grad)
        if isinstance(layer, nn.Linear) or _is_linear(layer):
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
        x_grad = group_norm_gradient(grad, x, weight, bias, norm.num_groups, norm.eps, ctx.silu)
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
