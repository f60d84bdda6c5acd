"""Colour palette: a mosaic of the picture."""

from __future__ import annotations

from comfy_api.latest import io

from ..scedit_core.conditions.color_palette import ColorPaletteOptions, color_palette
from .condition_images import CATEGORY, chosen, condition_output, csc_tuner_input, image_input, needs, one_by_one, shown

needs("cv2")


class SCEditColorPalette(io.ComfyNode):
    """IMAGE -> IMAGE, a mosaic of flat squares."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditColorPalette",
            display_name="SCEdit Color Palette",
            category=CATEGORY,
            description="A mosaic of flat squares that shows which colours are where, and nothing else. The default is "
            "that of the released tuners.",
            inputs=[
                image_input(),
                io.Int.Input(
                    "cell",
                    default=64,
                    min=1,
                    max=4096,
                    tooltip="Side of a square in pixels. Released tuners were trained on 64.",
                ),
                csc_tuner_input(),
            ],
            outputs=[condition_output()],
        )

    @classmethod
    def execute(cls, image, cell, csc_tuner=None) -> io.NodeOutput:
        options = chosen(csc_tuner, ColorPaletteOptions(cell=cell))
        return shown(cls, one_by_one(image, lambda picture: color_palette(picture, options)))
