"""Canny edges."""

from __future__ import annotations

from comfy_api.latest import io

from ..scedit_core.conditions.canny import CannyOptions, canny
from .condition_images import CATEGORY, chosen, condition_output, csc_tuner_input, image_input, needs, one_by_one, shown

needs("cv2")


class SCEditCanny(io.ComfyNode):
    """IMAGE -> IMAGE, white edges on black."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditCanny",
            display_name="SCEdit Canny",
            category=CATEGORY,
            description="White edges on black, as canny tuners were trained. The defaults are those of the released "
            "tuners.",
            inputs=[
                image_input(),
                io.Float.Input(
                    "low",
                    default=100.0,
                    min=0.0,
                    max=1000.0,
                    step=1.0,
                    tooltip="Edges weaker than this are dropped, on a scale where black to white is 255. Lower it for "
                    "more lines.",
                ),
                io.Float.Input(
                    "high",
                    default=200.0,
                    min=0.0,
                    max=1000.0,
                    step=1.0,
                    tooltip="Edges stronger than this are kept; those in between are kept where they continue one. "
                    "Same scale as low.",
                ),
                io.Float.Input(
                    "blur",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Sigma in pixels of a Gaussian blur that is applied first, against noise and texture. 0 "
                    "for none, as released tuners were trained.",
                ),
                csc_tuner_input(),
            ],
            outputs=[condition_output()],
        )

    @classmethod
    def execute(cls, image, low, high, blur, csc_tuner=None) -> io.NodeOutput:
        options = chosen(csc_tuner, CannyOptions(low=low, high=high, blur=blur))
        return shown(cls, one_by_one(image, lambda picture: canny(picture, options)))
