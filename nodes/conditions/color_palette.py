"""Colour palette: a mosaic of the picture."""

from __future__ import annotations

from ...scedit_core.conditions.color_palette import ColorPaletteOptions, color_palette
from .skeleton import Condition, ConditionNode, needs

needs("cv2")


class SCEditColorPalette(ConditionNode):
    """IMAGE -> IMAGE, a mosaic of flat squares."""

    row = Condition(
        node_id="SCEditColorPalette",
        title="SCEdit Color Palette",
        description=(
            "Makes a mosaic of flat squares: which colours are where, and nothing else. The default is that of "
            "the released tuners."
        ),
        options=ColorPaletteOptions,
        make=color_palette,
        allowed={"cell": (1, 4096)},
        widgets={"cell": "Side of a square in pixels. Released tuners were trained on 64."},
    )
