"""Gradients of layers whose weights never change, from no more than their input; the same kernels as eager torch's.

Outputs and gradients are equal, bit for bit, to those of the layers that they stand for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

aten = torch.ops.aten


def group_norm_gradient(
    grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float, silu: bool
) -> Tensor:
    """The gradient of the input x [B,C,h,w] of a group norm and, where `silu`, a SiLU after it."""
    order = _order_of_group_norm(x)
    x = x.contiguous(memory_format=order)
    size = (x.shape[0], x.shape[1], x[0, 0].numel(), groups)
    normed, mean, rstd = aten.native_group_norm(x, weight, bias, *size, eps)
    grad = (aten.silu_backward(grad, normed) if silu else grad).contiguous(memory_format=order)
    return aten.native_group_norm_backward(grad, x, mean, rstd, weight, *size, [True, False, False])[0]


def _order_of_group_norm(x: Tensor) -> torch.memory_format:
    """The order in memory in which F.group_norm computes: on a CPU that of x, elsewhere always channel by channel."""
    if x.device.type == "cpu" and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


class GatedGELU(torch.autograd.Function):
    """projected [...,2D] -> hidden * GELU(gate), [...,D]; keeps both as they were before the GELU."""

    @staticmethod
    def forward(ctx, projected):
        ctx.save_for_backward(projected)
        hidden, gate = projected.chunk(2, dim=-1)
        return hidden * F.gelu(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        projected = ctx.saved_tensors[0]
        hidden, gate = projected.chunk(2, dim=-1)
        if torch.compiler.is_compiling():  # which needs no room for the parts
            return torch.cat([grad * F.gelu(gate), aten.gelu_backward(grad * hidden, gate)], dim=-1)
        # the largest tensors of a step, so each half is computed where it belongs instead of being copied there
        whole = torch.empty_like(projected)
        for_hidden, for_gate = whole.chunk(2, dim=-1)
        aten.gelu(gate, out=for_hidden).mul_(grad)
        torch.mul(grad, hidden, out=for_gate)
        aten.gelu_backward.grad_input(for_gate, gate, grad_input=for_gate)
        return whole
