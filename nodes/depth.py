"""Depth with MiDaS DPT-hybrid or Depth Anything V2, which lie in models/scedit_annotators."""

from __future__ import annotations

from comfy_api.latest import io

from ..scedit_core.conditions.annotators import names_for
from ..scedit_core.conditions.depth import DepthOptions, depth, load_depth
from .condition_images import CATEGORY, chosen, condition_output, csc_tuner_input, image_input, needs, one_by_one, shown
from .detectors import loaded, managed_detector

needs("transformers")

# Bytes beside the weights: attention and fusion at the largest working size, 1024 pixels for the short side.
_WORKING_BYTES = 2 * 2**30
_NAMES = names_for("depth")


class SCEditDepth(io.ComfyNode):
    """IMAGE -> IMAGE, near is light."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditDepth",
            display_name="SCEdit Depth",
            category=CATEGORY,
            description="Depth, near is light, as depth tuners were trained. Needs the chosen detector in "
            "models/scedit_annotators.",
            inputs=[
                image_input(),
                io.Combo.Input(
                    "detector",
                    options=_NAMES,
                    default=_NAMES[0],
                    tooltip="dpt-hybrid-midas is what the released tuners were trained on; Depth Anything is sharper. "
                    "Each is a folder in models/scedit_annotators.",
                ),
                io.Boolean.Input("invert", default=False, tooltip="Near is dark, which some other controls want."),
                csc_tuner_input(),
            ],
            outputs=[condition_output()],
        )

    @classmethod
    def execute(cls, image, detector, invert, csc_tuner=None) -> io.NodeOutput:
        options = chosen(csc_tuner, DepthOptions(invert=invert, detector=detector))
        managed = managed_detector(options.detector, lambda path: load_depth(path.parent))
        device = loaded(_WORKING_BYTES, managed)
        return shown(cls, one_by_one(image, lambda picture: depth(picture, managed.module, options, device)))
