"""Conditions that need no detector and no more than a picture: Canny edges, and a mosaic of colours."""

from __future__ import annotations

from ...scedit_core.conditions.canny import CannyOptions, canny
from ...scedit_core.conditions.color_palette import ColorPaletteOptions, color_palette
from .skeleton import Condition, ConditionNode, needs

needs("cv2")


class SCEditCanny(ConditionNode):
    """IMAGE -> IMAGE, white edges on black."""

    row = Condition(
        node_id="SCEditCanny",
        title="SCEdit Canny",
        description="Draws white edges on black, as canny tuners were trained on. The defaults are those of the "
        "released tuners.",
        options=CannyOptions,
        make=canny,
        allowed={"low": (0.0, 1000.0, 1.0), "high": (0.0, 1000.0, 1.0), "blur": (0.0, 100.0, 0.1)},
        widgets={
            "low": "Edges weaker than this are dropped, on a scale where black to white is 255. Lower it for more "
            "lines.",
            "high": "Edges stronger than this are kept; those in between are kept where they continue a strong one. "
            "Same scale as low.",
            "blur": "Sigma in pixels of a Gaussian blur that is applied first, against noise and texture. 0 for none, "
            "as released tuners were trained.",
        },
    )


class SCEditColorPalette(ConditionNode):
    """IMAGE -> IMAGE, a mosaic of flat squares."""

    row = Condition(
        node_id="SCEditColorPalette",
        title="SCEdit Color Palette",
        description="Makes a mosaic of flat squares: which colours are where, and nothing else. The default is that of "
        "the released tuners.",
        options=ColorPaletteOptions,
        make=color_palette,
        allowed={"cell": (1, 4096)},
        widgets={"cell": "Side of a square in pixels. Released tuners were trained on 64."},
    )
