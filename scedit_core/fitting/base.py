"""The frozen base model as training sees it, whichever library runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..layout import SkipLayout
from ..tuners import CSCTuner, SCTuner
from .machine import moved

# A tuner at work, its strength, and its hint [B,3,8h,8w] in 0..1 where it is a control.
Attached = tuple[SCTuner | CSCTuner, float, Tensor | None]


@dataclass
class TextStates:
    """Encoded captions: `states` [B,L,D] for cross-attention; `pooled` [B,P] for SDXL, else None."""

    states: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def rows(self, index: Tensor | Sequence[int] | slice) -> TextStates:
        """The rows that `index` chooses, of both tensors."""
        index = index if isinstance(index, (slice, Tensor)) else list(index)
        return TextStates(self.states[index], None if self.pooled is None else self.pooled[index])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TextStates:
        """Both tensors on `device` and, where it is given, in `dtype`."""
        device = torch.device(device)
        pooled = None if self.pooled is None else moved(self.pooled, device, dtype)
        return TextStates(moved(self.states, device, dtype), pooled)


def stacked(texts: Sequence[TextStates]) -> TextStates:
    """Rows of captions of any length: a shorter one is repeated, which attention does not see, as ComfyUI does."""
    length = math.lcm(*(t.states.shape[1] for t in texts))
    states = torch.cat([t.states.repeat(1, length // t.states.shape[1], 1) for t in texts])
    return TextStates(states, None if texts[0].pooled is None else torch.cat([t.pooled for t in texts]))


@dataclass
class Added:
    """What another network, such as a ControlNet, adds to a forward.

    skips:  [B,C,h,w] for each block in block order (0 deepest), None where nothing is added.
    middle: [B,C,h,w], for the middle block's output, or None.
    """

    skips: list[Tensor | None]
    middle: Tensor | None = None


class FrozenBase(Protocol):
    """name:           of the model, for people.
    layout:         the skips of its U-Net.
    alphas_cumprod: [T] of the checkpoint's noise schedule, on the CPU.
    prediction:     "epsilon" or "v_prediction".
    needs_sizes:    whether the U-Net is told picture sizes and crops (SDXL).
    device:         where the U-Net works.
    latent_channels: of the latents that it takes.
    """

    name: str
    layout: SkipLayout

    @property
    def alphas_cumprod(self) -> Tensor: ...
    @property
    def prediction(self) -> str: ...
    @property
    def needs_sizes(self) -> bool: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def unet_device(self) -> torch.device: ...

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B,3,H,W] in -1..1 to mean and standard deviation [B,4,H/8,W/8] of scaled latents, in float32."""

    def encode_captions(self, captions: Sequence[str]) -> TextStates:
        """Captions to text states."""

    def skips(self, noisy: Tensor, timesteps: Tensor, text: Any, sizes: Tensor | None) -> list[Tensor]:
        """The unedited skips [B,C,h,w] in block order, without a graph; the middle block and the decoder do not run."""

    def rest_decoder(self) -> None:
        """Middle block and decoder are not needed until the next `predict`; their memory may be given back."""

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: Any,
        sizes: Tensor | None,
        edits: Sequence[Attached] = (),
        added: Added | None = None,
        apart: bool = False,
    ) -> Tensor:
        """What the U-Net says of noisy latents [B,4,h,w] at timesteps [B] with `edits` on its skips: [B,4,h,w].

        text:  B rows as `encode_captions` gives them.
        sizes: [B,6] for SDXL: original height and width, crop top and left, target height and width, in pixels.
        added: what another network adds to the skips before they are edited.
        apart: each of k edits works on a copy of the batch of its own, after one pass of the encoder: [kB,4,h,w].

        Gradients reach the tuners of `edits` alone; nothing before the decoder keeps a graph.
        """
