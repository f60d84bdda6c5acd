"""The formula of editing.py for any number of tuners at once: two matrix products and one GELU for each skip.

For a skip s of one picture as [C, hw], with all down matrices stacked and all up matrices side by side:

    hidden = GELU( D s + B )        D [R,C],  B [R,hw or 1]
    s'     = s + U hidden + G       U [C,R] times each tuner's weight,  G [C,hw or 1]

An SC-Tuner's part of B is the bias of its `down`, and of G the weighted bias of its `up`.  A CSC-Tuner reads s + g, and
down(s + g) = down s + down g: its part of B is `down g + bias`, of G `weight * (g + up bias)`.  Neither changes from
step to step.  A mask is a factor for each pixel, which commutes with `up`: it multiplies the tuner's rows of `hidden`,
and its part of G once.  `edit_skip` in editing.py is the same, tuner by tuner.  Source: paper, sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .editing import Edit, fitted_feature, fitted_mask
from .errors import LayoutError
from .tuners import CSCTuner


@dataclass
class Stack:
    """The weights of several tuners for one block.

    down, up: [R,C] and [C,R], the latter times each tuner's weight; biases [R], and [tuners,C] times the weights.
    parts:    for each tuner its index among the edits, its weight, and where its rows of R begin and end.
    """

    down: Tensor
    up: Tensor
    down_bias: Tensor
    up_biases: Tensor
    parts: list[tuple[int, float, int, int]]

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(t.nbytes for t in (self.down, self.up, self.down_bias, self.up_biases))


class FoldedWeights:
    """The weights of the tuners of `edits`, stacked on a device in a dtype, each block on its first use.

    Edits may share them where tuners and weights are the same, whatever their hints and masks.
    """

    def __init__(self, edits: Sequence[Edit], device: torch.device, dtype: torch.dtype) -> None:
        self._sources = [(edit.tuner, edit.weights()) for edit in edits]
        self.device, self.dtype = device, dtype
        self._stacks: dict[int, Stack | None] = {}

    def stack(self, b: int) -> Stack | None:
        """Those of block b, or None where no tuner with a weight has that block."""
        if b not in self._stacks:
            self._stacks[b] = self._made(b)
        return self._stacks[b]

    @property
    def nbytes(self) -> int:
        """Bytes that all blocks hold, or will."""
        return sum(
            (adapter.down.weight.numel() * 2 + adapter.down.bias.numel() + adapter.up.bias.numel())
            * self.dtype.itemsize
            for tuner, weights in self._sources
            for b, adapter in ((int(name), adapter) for name, adapter in tuner.tuners.items())
            if weights[b] != 0
        )

    def parts(self, b: int) -> list[tuple[int, float, int, int]]:
        """See Stack; for block b."""
        name, parts, begin = str(b), [], 0
        for i, (tuner, weights) in enumerate(self._sources):
            if name in tuner.tuners and weights[b] != 0:
                end = begin + tuner.tuners[name].down.weight.shape[0]
                parts.append((i, weights[b], begin, end))
                begin = end
        return parts

    @torch.no_grad()
    def _made(self, b: int) -> Stack | None:
        parts = self.parts(b)
        if not parts:
            return None
        adapters = [self._sources[i][0].tuners[str(b)] for i, *_ in parts]
        channels, rows = adapters[0].down.weight.shape[1], parts[-1][-1]
        place = {"device": self.device, "dtype": self.dtype}
        down, up = torch.empty(rows, channels, **place), torch.empty(channels, rows, **place)
        down_bias, up_biases = torch.empty(rows, **place), torch.empty(len(parts), channels, **place)
        with torch.inference_mode():  # tuners that were made in it are read in it alone; what is filled stays as it is
            for row, (_, weight, begin, end), adapter in zip(up_biases, parts, adapters, strict=True):
                down[begin:end] = adapter.down.weight.flatten(1)
                down_bias[begin:end] = adapter.down.bias
                up[:, begin:end] = _weighted(adapter.up.weight.flatten(1), weight)
                row.copy_(_weighted(adapter.up.bias, weight))
        return Stack(down, up, down_bias, up_biases, parts)


@dataclass
class _Block:
    """One block's matrices for skips of one size: what `apply` takes."""

    size: tuple[int, int]
    pictures: int  # P
    down: Tensor
    up: Tensor
    before: Tensor  # B, [P,R,hw or 1]
    after: Tensor  # G, [P,C,hw or 1]
    masks: list[tuple[int, int, Tensor]]  # rows of R, [P or 1, 1, hw]
    views: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)  # expanded over each batch size that came

    def fits(self, rows: int, size: tuple[int, int]) -> bool:
        """Whether it edits skips [rows,C,*size]."""
        return size == self.size and rows % self.pictures == 0

    def apply(self, skip: Tensor, base: Tensor) -> Tensor:
        """base + U hidden + G for skips [B,C,hw]; B is a multiple of P, and row i belongs to picture i modulo P."""
        batch, _, pixels = skip.shape
        if batch not in self.views:
            each = (t.expand(batch, -1, pixels) if len(t) == 1 else t for t in (self.before, self.after))
            self.views[batch] = self.down.expand(batch, -1, -1), self.up.expand(batch, -1, -1), *each
        down, up, before, after = self.views[batch]
        tracked = torch.is_grad_enabled() and skip.requires_grad
        hidden = _product(before, down, skip)
        hidden = F.gelu(hidden) if tracked else torch.ops.aten.gelu_(hidden)
        for begin, end, mask in self.masks:
            part = hidden[:, begin:end].unflatten(0, (-1, len(mask)))
            if tracked:
                hidden = torch.cat([hidden[:, :begin], (part * mask).flatten(0, 1), hidden[:, end:]], 1)
            else:
                part.mul_(mask)
        residual = _product(after, up, hidden)
        return base + residual if tracked else residual.add_(base)

    @property
    def nbytes(self) -> int:
        """Bytes beside the weights."""
        return self.before.nbytes + self.after.nbytes + sum(mask.nbytes for *_, mask in self.masks)


class FoldedEdits:
    """Edits of the same rows as one, made block by block when the first skip of that block comes.

    edits:   in an order that is always the same, since rounding follows it; all of one `rows`.
    weights: those of the edits, shared with others where there are any.

    A CSC-Tuner without features adds nothing where `hint_features` has None, as in `edit_skip`.
    """

    def __init__(self, edits: Sequence[Edit], weights: FoldedWeights) -> None:
        self.edits, self.weights = list(edits), weights
        self.rows = edits[0].rows
        self._blocks: dict[int, _Block] = {}
        self._making = threading.Lock()

    def __call__(self, b: int, skip: Tensor) -> Tensor:
        """The skip [B,C,h,w] of block b edited, or `skip` itself where nothing edits it."""
        return edit_folded(b, skip, [self])

    def check(self, b: int, channels: int) -> None:
        """Raises LayoutError where the tuners are for a U-Net whose block b has no skip of so many channels."""
        for edit in self.edits:
            own = edit.tuner.layout.channels
            if b >= len(own) or own[b] != channels:
                expected = f"{own[b]} channels" if b < len(own) else "no such block"
                raise LayoutError(
                    f"output block {b}: expected a skip with {expected}, found {channels}; choose a tuner "
                    "that was trained for this base model"
                )

    def block(self, b: int, rows: int, size: tuple[int, int]) -> _Block | None:
        """What edits skips [rows,C,*size] of block b, or None where nothing does."""
        stack = self.weights.stack(b)
        if stack is None:
            return None
        known = self._blocks.get(b)
        if known is None or not known.fits(rows, size):
            with self._making:
                known = self._blocks.get(b)
                if known is None or not known.fits(rows, size):
                    known = self._blocks[b] = self._made(b, stack, rows, size)
        return known

    @property
    def nbytes(self) -> int:
        """Bytes held beside the weights."""
        return sum(block.nbytes for block in list(self._blocks.values()))

    def nbytes_for(self, size: tuple[int, int]) -> int:
        """Bytes that all blocks will hold beside the weights, for latents of `size` (h, w)."""
        total, layout = 0, self.edits[0].tuner.layout
        for b, (channels, stride) in enumerate(zip(layout.channels, layout.strides, strict=True)):
            stack = self.weights.parts(b)
            pixels = math.prod(-(-side // stride) for side in size)
            hints = [self.edits[i].hint_features for i, *_ in stack if self.edits[i].hint_features is not None]
            masks = [self.edits[i].mask for i, *_ in stack if self.edits[i].mask is not None]
            pictures = math.lcm(*(_count(each) for each in hints), *map(len, masks))
            rows = sum(end - begin for *_, begin, end in stack)
            total += rows * (pictures * pixels if hints else 1)
            total += channels * (pictures * pixels if hints or masks else bool(stack))
            total += sum(len(mask) * pixels for mask in masks)
        return total * self.weights.dtype.itemsize

    @torch.no_grad()
    def _made(self, b: int, stack: Stack, rows: int, size: tuple[int, int]) -> _Block:
        features: dict[int, Tensor] = {}
        masks: dict[int, Tensor] = {}
        for i, *_ in stack.parts:
            edit = self.edits[i]
            if isinstance(edit.tuner, CSCTuner):
                feature = fitted_feature(edit, b, rows, size)
                if feature is not None:
                    features[i] = feature.to(stack.down).flatten(2)
            if edit.mask is not None:
                masks[i] = fitted_mask(edit.mask, rows, size).to(stack.down).flatten(2)
        pictures = math.lcm(*(len(each) for each in (*features.values(), *masks.values())))
        pixels = size[0] * size[1]
        before = stack.down_bias[None, :, None]
        if features:
            before = before.new_empty(pictures, before.shape[1], pixels)
        bare = [n for n, (i, *_) in enumerate(stack.parts) if i not in masks]
        after = stack.up_biases[bare].float().sum(0).to(stack.down)[None, :, None]
        for (i, weight, begin, end), up_bias in zip(stack.parts, stack.up_biases, strict=True):
            bias = stack.down_bias[begin:end, None]
            if i in features:
                each = len(features[i])
                made = before[:each, begin:end]
                torch.baddbmm(bias, stack.down[begin:end].expand(each, -1, -1), features[i], out=made)
                for first in range(each, pictures, each):
                    before[first : first + each, begin:end] = made
            elif features:
                before[:, begin:end] = bias
            if i in masks:
                part = up_bias[None, :, None]
                part = torch.add(part, features[i], alpha=weight) if i in features else part
                after = after + _spread(part, pictures) * _spread(masks[i], pictures)
            elif i in features:
                after = torch.add(after, _spread(features[i], pictures), alpha=weight)
        rows_of = {i: (begin, end) for i, _, begin, end in stack.parts}
        placed = [(*rows_of[i], mask) for i, mask in masks.items()]
        return _Block(size, pictures, stack.down, stack.up, before, after, placed)


def folded(edits: Sequence[Edit], like: Tensor) -> list[FoldedEdits]:
    """Edits folded for the device and dtype of `like`: one for each set of rows, all rows first."""
    groups: dict[tuple | None, list[Edit]] = {}
    for edit in edits:
        if isinstance(edit.tuner, CSCTuner) and edit.hint_features is None:
            continue  # without a hint it adds nothing
        groups.setdefault(None if edit.rows is None else tuple(edit.rows.tolist()), []).append(edit)
    ordered = sorted(groups, key=lambda rows: rows or ())
    return [FoldedEdits(groups[rows], FoldedWeights(groups[rows], like.device, like.dtype)) for rows in ordered]


def edit_folded(b: int, skip: Tensor, groups: Sequence[FoldedEdits]) -> Tensor:
    """Apply all groups to the skip [B,C,h,w] of block b; each reads the unedited skip.

    Returns `skip` itself where nothing edits it.  Raises HintError as `edit_skip` does, and LayoutError for skips of
    another U-Net.
    """
    size, edited, flat = tuple(skip.shape[-2:]), None, None
    for group in groups:
        group.check(b, skip.shape[1])
        block = group.block(b, len(skip) if group.rows is None else len(group.rows), size)
        if block is None:
            continue
        if flat is None:
            flat = skip.view(*skip.shape[:2], -1) if skip.is_contiguous() else skip.flatten(2)
        base = flat if edited is None else edited
        if group.rows is None:
            edited = block.apply(flat, base)
        else:
            part = flat.index_select(0, group.rows)
            on = part if edited is None else edited.index_select(0, group.rows)
            edited = base.index_copy(0, group.rows, block.apply(part, on))
    return skip if edited is None else edited.view(skip.shape)


def _product(added: Tensor, matrix: Tensor, skips: Tensor) -> Tensor:
    """added + matrix @ skips for skips [k*P,n,hw] and `added` [P,m,hw], k times over."""
    if len(added) == len(skips):
        return torch.baddbmm(added, matrix, skips)
    return (torch.bmm(matrix, skips).unflatten(0, (-1, len(added))) + added).flatten(0, 1)


def _spread(tensor: Tensor, rows: int) -> Tensor:
    return tensor if len(tensor) in (1, rows) else tensor.repeat(rows // len(tensor), 1, 1)


def _count(features: Sequence) -> int:
    """How many pictures hint features are for."""
    rows = getattr(features, "rows", None)  # of features that are not made yet
    return len(rows) if rows is not None else next((len(g) for g in features if g is not None), 1)


def _weighted(tensor: Tensor, weight: float) -> Tensor:
    """tensor * weight, rounded once: in float32 where it is of fewer bits."""
    return tensor if weight == 1 else (tensor.float() if tensor.itemsize < 4 else tensor) * weight
