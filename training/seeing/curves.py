"""Curves of a run as SVG that stands in a page and takes its colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Colours of the drawing that the page replaces by its own.
_COLORS = {
    "ink": "#010203",
    "line": "#010204",
    "one": "#010205",
    "two": "#010206",
    "three": "#010207",
    "four": "#010208",
    "five": "#010209",
}


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


def draw_curves(curves: Sequence[Curve], x_label: str, logarithmic: bool = False) -> str:
    """An <svg> element whose colours are the CSS variables --ink, --line and --one to --five."""
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "scedit",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": _COLORS["ink"],
        "axes.labelcolor": _COLORS["ink"],
        "xtick.color": _COLORS["ink"],
        "ytick.color": _COLORS["ink"],
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            color = _COLORS[curve.color]
            axes.plot(
                curve.x,
                curve.y,
                color=color,
                label=curve.name,
                linewidth=0.8 if curve.faint else 1.8,
                alpha=0.45 if curve.faint else 1,
                marker="o" if curve.dots else None,
                markersize=4,
            )
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if logarithmic:
            axes.set_yscale("log")
        axes.grid(color=_COLORS["line"], linewidth=0.6)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.margins(x=0.02)
        axes.set_xlim(left=0)
        if sum(curve.name is not None for curve in curves) > 1:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(text.getvalue())


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


def _for_page(svg: str) -> str:
    """The element alone, without size, with the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)  # this style would be the whole page's
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for name, color in _COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg.strip()
