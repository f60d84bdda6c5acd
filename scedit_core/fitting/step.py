"""One training step as a module, so that gradients are synchronised by wrapping it whole."""

from __future__ import annotations

from torch import Tensor, nn

from ..tuners import CSCTuner, SCTuner
from .base import FrozenBase, TextStates


class TrainingStep(nn.Module):
    """The frozen base with the tuner attached; the tuner alone is a part of the module."""

    def __init__(self, base: FrozenBase, tuner: SCTuner | CSCTuner) -> None:
        super().__init__()
        self.base, self.tuner = base, tuner

    def forward(
        self, noisy: Tensor, timesteps: Tensor, hints: Tensor | None, text: TextStates, sizes: Tensor | None
    ) -> Tensor:
        """noisy [B,4,h,w], timesteps [B], hints [B,3,8h,8w] or None, text and sizes as `FrozenBase.predict` takes them
        -> prediction [B,4,h,w].
        """
        return self.base.predict(noisy, timesteps, text, sizes, [(self.tuner, 1.0, hints)])
