"""Curves of a run as SVG that stands in a page and takes its colours, light or dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 600, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 10, 46  # around the plot
_LEGEND = 22  # of a line of the legend, which has two names
_TICKS = 6  # on each axis, at most


@dataclass(frozen=True)
class Curve:
    """One line: places and values, its name for the legend, and a colour of the page (one to five).

    faint: drawn thin and pale, for raw values behind a mean.  dots: a dot at each value.
    """

    x: Sequence[float]
    y: Sequence[float]
    name: str | None = None
    color: str = "one"
    faint: bool = False
    dots: bool = False


def draw_curves(curves: Sequence[Curve], x_label: str) -> str:
    """An <svg> element whose colours are the CSS variables --ink, --line and --one to --five."""
    named = [curve for curve in curves if curve.name is not None]
    named = named if len(named) > 1 else []
    top = _TOP + _LEGEND * math.ceil(len(named) / 2)
    below, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    most = max(1, *(x for curve in curves for x in curve.x))
    values = [y for curve in curves for y in curve.y]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin

    def across(x: float) -> float:
        return _LEFT + (right - _LEFT) * x / (1.02 * most)

    def up(y: float) -> float:
        return below - (below - top) * (y - low) / (high - low)

    drawn = []
    for tick in _ticks(low, high):
        drawn += [_line(_LEFT, up(tick), right, up(tick)), _text(_LEFT - 8, up(tick) + 4, f"{tick:.4g}", "end")]
    for tick in _ticks(0, most, whole=True):
        drawn += [_line(across(tick), top, across(tick), below), _text(across(tick), below + 18, f"{tick:.7g}")]
    drawn.append(_text((_LEFT + right) / 2, _HEIGHT - 6, x_label))
    for curve in curves:
        points = [(f"{across(x):.1f}", f"{up(y):.1f}") for x, y in zip(curve.x, curve.y, strict=True)]
        stroke = 'stroke-width="0.9" opacity="0.45"' if curve.faint else 'stroke-width="2"'
        drawn.append(
            f'<polyline points="{" ".join(map(",".join, points))}" fill="none" stroke="var(--{curve.color})" '
            f'stroke-linejoin="round" {stroke}/>'
        )
        dots = points if curve.dots else []
        drawn += [f'<circle cx="{x}" cy="{y}" r="3" fill="var(--{curve.color})"/>' for x, y in dots]
    for i, curve in enumerate(named):
        x, y = _LEFT + (i % 2) * (right - _LEFT) / 2, _TOP + 8 + _LEGEND * (i // 2)
        drawn += [
            _line(x, y, x + 24, y, curve.color, 0.9 if curve.faint else 2),
            _text(x + 32, y + 4, curve.name, "start"),
        ]
    inside = "".join(drawn)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="13">{inside}</svg>'


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean over about a tenth of the values, at most a hundred; it begins as the plain mean of all so far."""
    share = min(max(10 / max(len(values), 1), 0.01), 0.2)
    smoothed, mean = [], 0.0
    for count, value in enumerate(values, 1):
        mean += max(1 / count, share) * (value - mean)
        smoothed.append(mean)
    return smoothed


def thin(x: Sequence[float], y: Sequence[float], most: int = 1500) -> tuple[list[float], list[float]]:
    """At most about `most` of the points, evenly, with the last."""
    stride = max(1, len(x) // most)
    keep = sorted({*range(0, len(x), stride), len(x) - 1}) if len(x) else []
    return [x[i] for i in keep], [y[i] for i in keep]


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, evenly apart by 1, 2 or 5 of a power of ten; `whole` ones alone."""
    power = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= _TICKS)
    step = max(1.0, step) if whole else step
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(x: float, y: float, to_x: float, to_y: float, color: str = "line", width: float = 0.8) -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="var(--{color})" stroke-width="{width}"/>'


def _text(x: float, y: float, said: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--ink)">{html.escape(said)}</text>'
