"""Parts of a tuner that are computed again in the backward pass, from their input, instead of being kept.

Outputs, gradients and the names of weights stay equal, bit for bit.
"""

from __future__ import annotations

from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..tuners import CSCTuner, HintEncoder, SCTuner, SkipAdapter

within = ContextVar("within", default=False)  # what is recomputed anyhow


def recompute(tuner: SCTuner | CSCTuner, hints: bool = False) -> None:
    """Recompute each adapter of `tuner` from the skip that it reads, and where `hints` its hint encoder, which works at
    the hint's full size.  In place.

    An adapter would keep its hidden features before and after the GELU, each as large as the skip, and, trained in
    float32 under a U-Net in half precision, a copy of its weights.  It is a hundredth of a step's work
    (benchmarks/NOTES.md).
    """
    for adapter in tuner.tuners.values():
        adapter.__class__ = RecomputedAdapter
    if hints and isinstance(tuner, CSCTuner):
        tuner.hint.__class__ = RecomputedHintEncoder


class RecomputedAdapter(SkipAdapter):
    """An adapter that keeps its input only."""

    def forward(self, z: Tensor) -> Tensor:
        """See SkipAdapter."""
        if within.get() or not torch.is_grad_enabled():
            return super().forward(z)
        return _Adapted.apply(z, self.down.weight, self.down.bias, self.up.weight, self.up.bias)


class RecomputedHintEncoder(HintEncoder):
    """A hint encoder that keeps the hint and its features only."""

    def forward(self, hint: Tensor, levels: int | None = None) -> list[Tensor]:
        """See HintEncoder."""
        return checkpoint(super().forward, hint, levels, use_reentrant=False, preserve_rng_state=False)


class _Adapted(torch.autograd.Function):
    """The formula of SkipAdapter; `checkpoint` would take twice the time for as few operators."""

    @staticmethod
    def forward(ctx, z, *weights):
        ctx.save_for_backward(z, *weights)
        return _adapted(z, *weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        wanted = ctx.needs_input_grad
        inputs = [t.detach().requires_grad_(needs) for t, needs in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad():
            out = _adapted(*inputs)
        grads = iter(torch.autograd.grad(out, [t for t in inputs if t.requires_grad], grad))
        return tuple(next(grads) if needs else None for needs in wanted)


def _adapted(z: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor) -> Tensor:
    hidden = F.gelu(F.conv2d(z, down.to(z.dtype), down_bias.to(z.dtype)))
    return F.conv2d(hidden, up.to(z.dtype), up_bias.to(z.dtype))
