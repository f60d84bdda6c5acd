"""What the last validation says about a tuner, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEARD = 0.005  # of the base's loss; less between hint and no hint is as good as nothing


def gap(loss: float, base_loss: float) -> float:
    """How much lower a loss is than the base's, as a share of it; negative where it is higher."""
    return (base_loss - loss) / base_loss if base_loss else 0.0


def verdict(validation: Mapping[str, Any]) -> str:
    """One or two sentences on losses with and without the tuner and, for a control, without its hint."""
    whole = gap(validation["loss_with"], validation["loss_without"])
    without_hint = validation.get("loss_no_hint")
    if without_hint is None:
        return f"The tuner {_changes(whole)}."
    bare = gap(without_hint, validation["loss_without"])
    said = f"The control {_changes(whole)}; without its hint it {_changes(bare, 'it')}."
    if whole - bare > _HEARD:
        return f"{said} It follows its hint."
    return f"{said} It does not follow its hint yet: train longer, or check that pictures and hints belong together."


def _changes(share: float, what: str = "the validation loss") -> str:
    return f"{'lowers' if share >= 0 else 'raises'} {what} by {abs(share) * 100:.1f} %"
