"""How a scene can be drawn: a wide family of random styles for the base, and three styles for tuners held out of it.

An SC-Tuner steers what a base can already draw, so the base has to have seen many ways of drawing.  The three styles
of `TUNER_STYLES` are made of the same means, in combinations that `random_style` never gives.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from .scenes import OUTLINE

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Style:
    """Widths and radii are pixels of a picture of 128; strengths are 0..1.

    ground: the colours that the darkest and the lightest tone of the background become, None for natural colours;
    keep: how much of the natural colours remains.  line: colour of outlines, None for none.  `details`: eyes, doors
    and the like "filled" or only as "lines".  strength: of an object's colour, against the ground under it.
    """

    ground: tuple[Colour, Colour] | None = None
    keep: float = 0.0
    pattern: str = "none"  # over the background: none, grid, hatch, dots
    line: Colour | None = OUTLINE
    width: float = 2.5
    fill: str = "flat"  # flat, shaded, hatched, dotted
    details: str = "filled"
    strength: float = 1.0
    saturation: float = 1.0
    bright: bool = False  # bodies shine: colours are raised to full brightness
    glow: float = 0.0
    soft: float = 0.0  # blur of edges
    rim: float = 0.0  # pigment that gathers at the edges
    blotch: float = 0.0  # uneven colour
    border: float = 0.0  # bare paper around the picture
    wobble: float = 0.0
    grain: float = 0.0  # standard deviation of noise, 0..1

    @property
    def tone(self) -> str:
        """Of the ground: dark, pale, or natural where most of the natural colours remain."""
        if self.ground is None or self.keep > 0.6:
            return "natural"
        return "dark" if np.mean(self.ground) < 110 else "pale"

    def words(self) -> list[str]:
        """What a caption may say of it."""
        told = {
            self.tone: self.tone != "natural",
            self.fill: self.fill != "flat",
            "gridded": self.pattern == "grid",
            "glowing": self.glow > 0,
            "soft": self.soft > 0,
            "painted": self.rim > 0 or self.blotch > 0,
            "grainy": self.grain > 0,
            "unlined": self.line is None,
        }
        return [word for word, true in told.items() if true]


STYLE_WORDS = (
    "dark", "pale", "shaded", "hatched", "dotted", "gridded", "glowing", "soft", "painted", "grainy", "unlined",
)  # fmt: skip
PLAIN = Style()
UNLINED = Style(line=None)
TUNER_STYLES = {
    # far from the plain style: a dark world that the objects light
    "lantern": Style(ground=((10, 6, 28), (48, 26, 78)), line=None, bright=True, glow=0.9),
    # clean and graphic: light lines on blue paper
    "blueprint": Style(ground=((14, 44, 104), (44, 96, 168)), line=(240, 246, 255), width=3.0, strength=0.88),
    # painterly: washes without lines on bare paper
    "watercolour": Style(
        ground=((168, 170, 180), (252, 248, 238)), keep=0.35, line=None, soft=0.9, rim=0.5, blotch=0.35, border=7,
        wobble=0.6, strength=0.82,
    ),
}  # fmt: skip
STYLES = ("plain", *TUNER_STYLES)


def random_style(rng: np.random.Generator, plain: float = 0.4, grain: bool = True) -> Style:
    """One of the family, the plain style in a share of `plain`; never one that comes near a style of TUNER_STYLES."""
    if rng.random() < plain:
        return PLAIN
    while True:
        style = _any_style(rng, grain)
        if not near_tuner_style(style):
            return style


def near_tuner_style(style: Style) -> bool:
    """True for the combinations that make up the tuners' styles: these are seen by no part but judge and autoencoder.

    Bright, glowing things without lines in the dark; light lines on blue; uneven washes with rims, without lines, on
    pale paper.
    """
    if style.tone == "natural":
        return False
    unlined = style.line is None
    lantern = style.tone == "dark" and style.glow > 0 and style.bright and unlined
    middle = np.mean(style.ground, axis=0) / 255
    hue, _, saturation = colorsys.rgb_to_hls(*middle)[0], None, colorsys.rgb_to_hsv(*middle)[1]
    blue = 0.55 < hue < 0.67 and saturation > 0.3
    blueprint = blue and not unlined and np.mean(style.line) > 150
    watercolour = style.tone == "pale" and unlined and style.rim > 0 and style.blotch > 0
    return lantern or blueprint or watercolour


def _any_style(rng: np.random.Generator, grain: bool) -> Style:
    def some(share: float, low: float, high: float) -> float:
        return float(rng.uniform(low, high)) if rng.random() < share else 0.0

    dark = rng.random() < 0.5
    ground, keep = None, 0.0
    if rng.random() < 0.65:
        hue = rng.random()
        low, high = (rng.uniform(0.03, 0.25), rng.uniform(0.3, 0.6)) if dark else (rng.uniform(0.5, 0.8), 1.0)
        saturation = rng.uniform(0.1, 0.9) if dark else rng.uniform(0, 0.35)
        ground = (_hsv(hue, saturation, low), _hsv(hue + rng.uniform(-0.05, 0.05), saturation, high))
        keep = some(0.6, 0.1, 0.7)
    line, kind = None, rng.random()
    if kind < 0.3:
        line = _hsv(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.0, 0.35))
    elif kind < 0.45:
        line = OUTLINE
    elif kind < 0.7:
        line = _hsv(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.85, 1.0))
    return Style(
        ground=ground,
        keep=keep,
        pattern=str(rng.choice(["none", "grid", "hatch", "dots"], p=[0.7, 0.12, 0.09, 0.09])),
        line=line,
        width=float(rng.uniform(1.0, 4.0)),
        fill=str(rng.choice(["flat", "shaded", "hatched", "dotted"], p=[0.52, 0.24, 0.12, 0.12])),
        details="filled" if line is None or rng.random() < 0.75 else "lines",
        strength=1 - some(0.4, 0.05, 0.35),
        saturation=1 - some(0.3, 0.05, 0.4),
        bright=bool(rng.random() < 0.15),
        glow=some(0.2, 0.4, 1.0),
        soft=some(0.25, 0.5, 1.4),
        rim=some(0.2, 0.2, 0.6),
        blotch=some(0.2, 0.15, 0.45),
        border=some(0.15, 3, 10),
        wobble=some(0.25, 0.4, 1.2),
        grain=some(0.12, 0.02, 0.07) if grain else 0.0,
    )


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue % 1, saturation, value))
