"""One training step as a module, so that gradients are synchronised by wrapping it whole."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..tuners import CSCTuner, SCTuner
from .base import FrozenBase, TextStates
from .distilling import residual_errors


class TrainingStep(nn.Module):
    """The frozen base with the tuner attached; the tuner alone is a part of the module."""

    def __init__(self, base: FrozenBase, tuner: SCTuner | CSCTuner) -> None:
        super().__init__()
        self.base, self.tuner = base, tuner

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        hints: Tensor | None,
        text: TextStates,
        sizes: Tensor | None,
        wanted: Sequence[Tensor | None] | None = None,
        masks: Tensor | None = None,
    ) -> Tensor:
        """noisy [B,4,h,w], timesteps [B], hints [B,3,8h,8w] or None, text and sizes as `FrozenBase.predict` takes them
        -> prediction [B,4,h,w].

        With `wanted`, a teacher's residuals on the skips, and masks as `residual_errors` takes them -> errors [B].
        """
        if wanted is not None:
            skips = self.base.skips(noisy, timesteps, text, sizes)
            return residual_errors(self.tuner, skips, hints, wanted, masks)
        return self.base.predict(noisy, timesteps, text, sizes, [(self.tuner, 1.0, hints)])
