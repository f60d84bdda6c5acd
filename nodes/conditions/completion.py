"""Completion: a picture with a hole, or on a larger canvas, for tuners that complete pictures."""

from __future__ import annotations

from comfy_api.latest import io

from ...scedit_core.conditions.completion import Margins, inpainting, outpainting
from ...scedit_core.errors import ConditionError
from .skeleton import Condition, ConditionNode

_SIDES = ("left", "top", "right", "bottom")


class SCEditCompletion(ConditionNode):
    """IMAGE and MASK, or IMAGE and margins -> hint, picture and mask."""

    row = Condition(
        node_id="SCEditCompletion",
        title="SCEdit Completion",
        description="Makes the hint for a tuner that completes pictures: with a mask to fill a hole (inpainting), with "
        "margins to continue the picture beyond its edges (outpainting). What will be painted is black in the hint.",
        options=Margins,
        allowed=dict.fromkeys(_SIDES, (0, 16384, 8)),
        widgets={
            side: f"Pixels to add at the {side}. With any margin, the sides are rounded up to a multiple of 64. All 0 "
            "for inpainting."
            for side in _SIDES
        },
        more=(
            io.Mask.Input(
                "mask",
                optional=True,
                tooltip="For inpainting: what is 0.5 or more will be painted. Stretched to the picture; one for all "
                "pictures or one for each.",
            ),
        ),
        outputs=(
            io.Image.Output(display_name="hint", tooltip="For Apply nodes: black where something will be painted."),
            io.Image.Output(
                display_name="image",
                tooltip="The picture on its canvas, for ComfyUI's inpainting nodes; new parts are grey.",
            ),
            io.Mask.Output(display_name="mask", tooltip="1 where something will be painted, as large as the picture."),
        ),
    )

    @classmethod
    def made(cls, image, margins, mask=None):
        """Hint, picture and mask."""
        if (margins == Margins()) == (mask is None):
            found = "neither" if mask is None else "both"
            raise ConditionError(
                f"completion: expected either a mask or margins, found {found}; connect a MASK with all margins at 0, "
                "or set margins without one"
            )
        made = outpainting(image, margins) if mask is None else inpainting(image, mask)
        return made.hint, made.image, made.mask
