"""The trained modules of SCEdit: SC-Tuner, hint encoder and Controllable SC-Tuner (paper, sections 3.2 and 3.3).

Modules take `device`, `dtype` and `operations` like those of the host, so that the host's casting layers can stand in
for those of `torch.nn`.  Adapters are 1x1 convolutions: a linear map over channels that works on [B,C,h,w] as it lies
in memory.  Files store their weights as matrices (see `to_file` and `to_module`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import HintError, SCEditError
from .layout import SkipLayout

HINT_FACTOR = 8  # a hint is this many times larger than the latent, per side
_STEM_WIDTHS = (16, 16, 32, 32, 96, 96)
_STEM_STRIDES = (1, 1, 2, 1, 2, 1, 2)


class SkipAdapter(nn.Module):
    """A(z) = up(GELU(down(z))) per pixel, with the exact GELU; `up` starts at zero.  [B,C,h,w] -> [B,C,h,w]."""

    def __init__(self, channels: int, hidden: int, device=None, dtype=None, operations: Any = nn) -> None:
        super().__init__()
        pointwise = _pointwise(operations)
        self.down = pointwise(channels, hidden, 1, device=device, dtype=dtype)
        self.up = pointwise(hidden, channels, 1, device=device, dtype=dtype)
        _zero(self.up)

    def forward(self, z: Tensor) -> Tensor:
        """z [B,C,h,w] -> A(z) [B,C,h,w]."""
        return self.up(F.gelu(self.down(z)))


@functools.cache
def _casting(operations: Any) -> type[nn.Conv2d]:
    """The Conv2d of `operations`, with weights that are cast to the dtype of what they are applied to.

    So float32 weights can be trained under a U-Net in half precision.
    """

    class CastingConv2d(operations.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return super()._conv_forward(input, weight.to(input.dtype), bias.to(input.dtype))

    return CastingConv2d


@functools.cache
def _pointwise(operations: Any) -> type[nn.Conv2d]:
    """The same for kernels of 1, as one matrix product for each picture where nothing is trained.

    In half precision a convolution of a tensor in NCHW order costs half as much again (benchmarks/NOTES.md).  With
    gradients it stays a convolution, since the product would make a gradient of the weights for each picture.
    """

    class Pointwise(_casting(operations)):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            if torch.is_grad_enabled() or not input.is_contiguous():
                return super()._conv_forward(input, weight, bias)
            pictures, _, height, width = input.shape
            matrix = weight.to(input.dtype).flatten(1).expand(pictures, -1, -1)
            return torch.baddbmm(bias.to(input.dtype)[:, None], matrix, input.flatten(2)).unflatten(2, (height, width))

    return Pointwise


class _Tuner(nn.Module):
    """What both kinds of tuner share: a layout, metadata, and one adapter for each tuned block."""

    kind: str

    def __init__(self, layout: SkipLayout, hidden: Mapping[int, int], metadata, device, dtype, operations) -> None:
        super().__init__()
        unknown = sorted(b for b in hidden if not 0 <= b < len(layout))
        if unknown or not hidden:
            raise SCEditError(
                f"blocks: expected at least one of 0 to {len(layout) - 1} (0 is the deepest), "
                f"found {unknown or 'none'}; name blocks that the U-Net has"
            )
        self.layout = layout
        self.metadata: dict[str, str] = dict(metadata or {})
        self.tuners = nn.ModuleDict(
            {
                str(b): SkipAdapter(layout.channels[b], hidden[b], device=device, dtype=dtype, operations=operations)
                for b in sorted(hidden)
            }
        )

    @property
    def blocks(self) -> tuple[int, ...]:
        """The tuned blocks, deepest first."""
        return tuple(int(b) for b in self.tuners)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    def hidden(self) -> dict[int, int]:
        """Hidden width r of each tuned block."""
        return {int(b): adapter.down.weight.shape[0] for b, adapter in self.tuners.items()}

    def to_file(self) -> dict[str, Tensor]:
        """All weights under the names and in the shapes of the pack's own format (adapters as [r,C] and [C,r])."""
        state = self.state_dict()
        return {k: v.flatten(1) if k.startswith("tuners.") and v.ndim == 4 else v for k, v in state.items()}


def to_module(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_file`: a state dict for the module.  Views only, nothing is copied."""
    return {k: v[:, :, None, None] if k.startswith("tuners.") and v.ndim == 2 else v for k, v in tensors.items()}


def rebuilt(tuner: SCTuner | CSCTuner, operations: ModuleType | Any, dtype: torch.dtype) -> SCTuner | CSCTuner:
    """The same tuner built of other layers, such as a host's casting ones, with its weights in `dtype`.

    Weights that have that dtype already are shared with `tuner`, not copied.
    """
    options: dict[str, Any] = {"hidden": tuner.hidden(), "metadata": tuner.metadata}
    if isinstance(tuner, CSCTuner):
        first, dense = tuner.hint.stem[0].weight, tuner.hint.dense[0].weight
        options |= {"hint_ratio": first.shape[0] / 16, "kernel": dense.shape[-1], "stem_width": dense.shape[1]}
    copy = type(tuner)(tuner.layout, device="meta", operations=operations, **options)
    copy.requires_grad_(False)  # before it takes weights: those made in inference mode cannot ask for gradients
    copy.load_state_dict({k: v.to(dtype) for k, v in tuner.state_dict().items()}, assign=True)
    return copy


def own_memory(tuner: SCTuner | CSCTuner) -> None:
    """Put copies in the place of weights that are a map of a file.

    As new parameters, since new data in those of inference mode could not be read outside of it.
    """
    for module in tuner.modules():
        for name, p in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(p.detach().clone(), p.requires_grad and not p.is_inference()))


class SCTuner(_Tuner):
    """SC-Tuner: s' = s + strength * A_b(s).

    layout:   the skips of the U-Net it is for.
    ratio:    hidden width over channels, int(C * ratio), at least 1.
    blocks:   the blocks to tune, all by default.
    hidden:   hidden width of each tuned block, in place of `ratio` and `blocks`.
    metadata: strings that travel with the file.

    Raises SCEditError for blocks that the layout does not have.  Source: paper, section 3.2.
    """

    kind = "sc"

    def __init__(
        self,
        layout: SkipLayout,
        ratio: float = 1.0,
        blocks: Iterable[int] | None = None,
        hidden: Mapping[int, int] | None = None,
        metadata: Mapping[str, str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: ModuleType | Any = nn,
    ) -> None:
        hidden = hidden if hidden is not None else _widths(layout, ratio, blocks)
        super().__init__(layout, hidden, metadata, device, dtype, operations)

    def residual(self, b: int, skip: Tensor) -> Tensor | None:
        """A_b(skip) [B,C,h,w] for the skip [B,C,h,w] of block b, or None where block b is not tuned."""
        name = str(b)
        return self.tuners[name](skip) if name in self.tuners else None


class HintEncoder(nn.Module):
    """Hint features g_i for each encoder level from a hint image.  Source: paper, section 3.3, figure 4.

    A stem of seven 3x3 convolutions shrinks the hint to the latent's size; then one zero-initialised convolution for
    each level, `g_i = conv_i(SiLU(g_{i-1}))`, with stride 2 where the U-Net's encoder had downsampled.
    """

    def __init__(
        self, layout: SkipLayout, kernel: int, hint_ratio: float, stem_width: int, device, dtype, operations
    ) -> None:
        super().__init__()
        if kernel not in (1, 3):
            raise SCEditError(f"hint kernel: expected 1 or 3, found {kernel}; choose one of them")
        place = {"device": device, "dtype": dtype}
        widths = [3, *(int(w * hint_ratio) for w in _STEM_WIDTHS), stem_width]
        self.stem = nn.ModuleList(
            _casting(operations)(i, o, 3, stride=s, padding=1, **place)
            for i, o, s in zip(widths, widths[1:], _STEM_STRIDES, strict=False)
        )
        channels, strides = layout.channels[::-1], (1, *layout.strides[::-1])
        self.dense = nn.ModuleList(
            _casting(operations)(i, o, kernel, stride=s // before, padding=kernel // 2, **place)
            for i, o, before, s in zip((stem_width, *channels), channels, strides, strides[1:], strict=False)
        )
        for conv in self.dense:
            _zero(conv)

    def forward(self, hint: Tensor, levels: int | None = None) -> list[Tensor]:
        """hint [B,3,8h,8w] in 0..1 -> features of the first `levels` encoder levels, [B,C_i,h/stride_i,w/stride_i]."""
        g = self.stem[0](hint)
        for conv in self.stem[1:]:
            g = conv(F.silu(g))
        features = []
        for conv in self.dense[:levels]:
            g = conv(F.silu(g))
            features.append(g)
        return features


class CSCTuner(_Tuner):
    """Controllable SC-Tuner: s' = s + strength * scale * (g_b + A_b(s + g_b)), g from a hint image.

    kernel:     1 or 3, of the dense convolutions.
    hint_ratio: width of the stem, 1 for SD 1.5 and 2.1, 2 for SDXL.
    stem_width: channels that the stem gives, 256 or 320.
    The other arguments are those of SCTuner.

    Raises SCEditError for blocks that the layout does not have.  Source: paper, section 3.3.
    """

    kind = "csc"

    def __init__(
        self,
        layout: SkipLayout,
        ratio: float = 1.0,
        blocks: Iterable[int] | None = None,
        hidden: Mapping[int, int] | None = None,
        kernel: int = 1,
        hint_ratio: float = 1,
        stem_width: int = 256,
        metadata: Mapping[str, str] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: ModuleType | Any = nn,
    ) -> None:
        hidden = hidden if hidden is not None else _widths(layout, ratio, blocks)
        super().__init__(layout, hidden, metadata, device, dtype, operations)
        self.hint = HintEncoder(layout, kernel, hint_ratio, stem_width, device, dtype, operations)

    @property
    def scale(self) -> float:
        """The strength that the file asks to be multiplied with, 1 where it asks for none."""
        return float(self.metadata.get("scedit.scale", 1.0))

    def encode_hint(self, hint: Tensor, encoder: HintEncoder | None = None) -> list[Tensor | None]:
        """Hint features in block order: a list over b of g_b [B,C_b,h_b,w_b], None where block b is not tuned.

        hint: [B,3,H,W] in 0..1, H and W multiples of 8 (8 times the latent's).  Raises HintError for other shapes and
        for whole numbers.  `encoder`: that of a `rebuilt` copy, in place of the tuner's own.
        """
        fits = hint.ndim == 4 and hint.shape[1] == 3 and hint.numel() > 0 and hint.is_floating_point()
        if not fits or hint.shape[2] % HINT_FACTOR or hint.shape[3] % HINT_FACTOR:
            raise HintError(
                f"hint: expected floats [B,3,H,W] in multiples of {HINT_FACTOR}, found "
                f"{str(hint.dtype).removeprefix('torch.')} {list(hint.shape)}; give RGB images in 0..1, 8 times the "
                "latent's size"
            )
        if torch.is_grad_enabled():
            # convolutions at full size then need no copies: a fifth less time (benchmarks/NOTES.md)
            hint = hint.to(memory_format=torch.channels_last)
        last = len(self.layout) - 1
        features: list[Tensor | None] = [None] * len(self.layout)
        for level, g in enumerate((encoder or self.hint)(hint, levels=len(self.layout) - min(self.blocks))):
            if str(last - level) in self.tuners:
                features[last - level] = g
        return features

    def residual(self, b: int, skip: Tensor, hint_feature: Tensor) -> Tensor | None:
        """g + A_b(skip + g) [B,C,h,w]; skip and g of equal shape.  None where block b is not tuned."""
        name = str(b)
        return hint_feature + self.tuners[name](skip + hint_feature) if name in self.tuners else None


def _widths(layout: SkipLayout, ratio: float, blocks: Iterable[int] | None) -> dict[int, int]:
    if not ratio > 0:
        raise SCEditError(f"ratio: expected more than 0, found {ratio}; 1 is the authors' choice")
    chosen = range(len(layout)) if blocks is None else sorted(set(blocks))
    return {b: max(1, int(layout.channels[b] * ratio)) if 0 <= b < len(layout) else 1 for b in chosen}


def _zero(layer: nn.Module) -> None:
    if layer.weight is None:  # some of the host's layers are filled when a file is loaded
        return
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
