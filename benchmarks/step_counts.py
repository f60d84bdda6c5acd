"""Counting what a step costs: for benchmarks/training.py without a weight allocated, for inference.py on real ones."""

from __future__ import annotations

import collections
import contextlib
import functools
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Give meta tensors the fused attention that real ones get; their own would keep the whole score matrix."""

    def fused(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False):
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout_p, is_causal)[0]

    with mock.patch.object(F, "scaled_dot_product_attention", fused):
        yield


@register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu)
def _attention_flops(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


@register_flop_formula(aten._scaled_dot_product_flash_attention_for_cpu_backward)
def _attention_backward_flops(grad, query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


class SavedBytes:
    """Bytes that autograd keeps for the backward pass, each storage once, weights and buffers of `modules` excluded.

    now: those that it keeps at this moment; what was saved for a graph that is gone is not among them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        self._weights = {t.untyped_storage()._cdata for t in tensors}
        self._times: collections.Counter[int] = collections.Counter()  # that each storage is kept
        self.now = self._most = 0

    def counting(self) -> contextlib.AbstractContextManager:
        """To be open during the forward pass."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept.tensor)

    def _keep(self, tensor: Tensor) -> _Kept:
        storage = tensor.untyped_storage()
        kept = _Kept(tensor.detach())  # with its graph it would hold itself, and never go
        key, size = storage._cdata, storage.nbytes()
        if key not in self._weights and not isinstance(tensor, nn.Parameter):
            weakref.finalize(kept, self._gone, key, size)
            self._times[key] += 1
            self.now += size if self._times[key] == 1 else 0
            self._most = max(self._most, self.now)
        return kept

    def _gone(self, key: int, size: int) -> None:
        self._times[key] -= 1
        self.now -= size if self._times[key] == 0 else 0

    def most(self) -> int:
        """The most since it was asked last."""
        most, self._most = self._most, self.now
        return most


@dataclass(eq=False)
class _Kept:
    """What autograd holds in place of a tensor, for as long as it keeps that."""

    tensor: Tensor


class StepCost(TorchDispatchMode):
    """FLOPs of matrix products, convolutions and attention, operators, and the most bytes that tensors held at once.

    launches: operators that compute something: no views, and none that only make room.

    tensors: what lies in memory before; their bytes count from the start.  What kernels need while they run, such as
    the workspace of a convolution, is not counted.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._seen: set[int] = set()
        self.flops = self.launches = self.now = self.peak = 0
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.is_inference_mode_enabled():  # where composed operators come whole
            with self:
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out, flops = _shapes_of(func, args, kwargs or {})
        self.flops += flops
        self.launches += _computes(func)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return out


@functools.cache
def _computes(func) -> bool:
    """Whether an operator does more than to name or to reserve memory."""
    view = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
    return not view and not func._schema.name.startswith(("aten::empty", "aten::new_empty", "aten::detach"))


_KNOWN: dict[tuple, tuple[Any, int]] = {}


def _shapes_of(func, args: tuple, kwargs: dict) -> tuple[Any, int]:
    """What an operator on meta tensors gives, and its FLOPs.

    A U-Net repeats few shapes many times, and to work out one takes torch much longer than to look it up.
    """
    aliases = func._schema.is_mutable or any(each.alias_info is not None for each in func._schema.returns)
    key = None if aliases else (func, _key(args), _key(tuple(kwargs.items())))
    if key in _KNOWN:
        out, flops = _KNOWN[key]
        return tree_map_only(Tensor, _another, out), flops
    out = func(*args, **kwargs)
    formula = flop_registry.get(func._overloadpacket)
    flops = formula(*args, **kwargs, out_val=out) if formula else 0
    if key is not None and all(
        each is None or (isinstance(each, Tensor) and each.is_meta) for each in tree_leaves(out)
    ):
        _KNOWN[key] = tree_map_only(Tensor, _another, out), flops
    return out, flops


def _another(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Tensor, value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, tuple | list):
        return tuple(_key(each) for each in value)
    return type(value), value
