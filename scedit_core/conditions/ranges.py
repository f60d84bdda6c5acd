"""Bounds of options: one sentence for a value that lies outside."""

from __future__ import annotations

from ..errors import ConditionError


def check_range(name: str, value: float, lowest: float, highest: float) -> None:
    """Raises ConditionError unless lowest <= value <= highest; NaN is outside."""
    if not lowest <= value <= highest:
        raise ConditionError(
            f"{name}: expected a number from {lowest} to {highest}, found {value}; choose one in between"
        )
