"""The tuner that a run begins with."""

from __future__ import annotations

import torch

from .. import CSCTuner, SCTuner, SkipLayout, load_tuner
from ..errors import ConfigError
from .settings import TunerSettings
from .tuner_file import STEP


def new_tuner(config: TunerSettings, layout: SkipLayout, seed: int) -> SCTuner | CSCTuner:
    """A fresh tuner for `layout`, or the one of `config.start_from`, in float32.

    Parameters that cannot reach a tuned block (hint convolutions beyond the last one) are frozen.
    Raises ConfigError for blocks that the U-Net does not have and for a file of another kind or base, TunerFileError
    for one that cannot be read.
    """
    torch.manual_seed(seed)
    tuner = _from_file(config, layout) if config.start_from else _fresh(config, layout)
    if isinstance(tuner, CSCTuner):
        for conv in tuner.hint.dense[len(layout) - min(tuner.blocks) :]:
            conv.requires_grad_(False)
    return tuner


def trainable(tuner: SCTuner | CSCTuner) -> list[torch.nn.Parameter]:
    """The parameters that a run changes."""
    return [p for p in tuner.parameters() if p.requires_grad]


def _fresh(config: TunerSettings, layout: SkipLayout) -> SCTuner | CSCTuner:
    if config.blocks is not None and (not config.blocks or max(config.blocks) >= len(layout)):
        raise ConfigError(
            f"tuner.blocks: expected numbers from 0 to {len(layout) - 1} for this base, "
            f"found {config.blocks}; correct them"
        )
    if config.kind == "sc":
        return SCTuner(layout, ratio=config.ratio, blocks=config.blocks)
    return CSCTuner(
        layout,
        ratio=config.ratio,
        blocks=config.blocks,
        kernel=config.kernel,
        hint_ratio=config.hint_ratio or (2 if layout.family == "sdxl" else 1),
        stem_width=config.stem_width,
    )


def _from_file(config: TunerSettings, layout: SkipLayout) -> SCTuner | CSCTuner:
    tuner = load_tuner(config.start_from)
    reason = layout.mismatch(tuner.layout)
    if tuner.kind != config.kind:
        reason = f"expected a tuner of kind {config.kind}, found {tuner.kind}"
    if reason:
        raise ConfigError(f"tuner.start_from: {config.start_from.name}: {reason}; choose another file")
    for p in tuner.parameters():
        p.data = p.data.float().clone()  # a map of the file until here
    tuner.metadata.pop(STEP, None)  # said of the file that it comes from
    return tuner.requires_grad_(True)
