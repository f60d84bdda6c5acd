"""Soft edges with HED, whose weights lie in models/scedit_annotators/hed."""

from __future__ import annotations

import comfy.ops
from comfy_api.latest import io

from ..scedit_core.conditions.hed import load_hed
from ..scedit_core.conditions.soft_edge import POLARITIES, SoftEdgeOptions, soft_edge
from .condition_images import CATEGORY, chosen, condition_output, csc_tuner_input, image_input, needs, one_by_one, shown
from .detectors import loaded, managed_detector

needs("cv2")

# Bytes for each pixel while HED runs: the widest features, 64 channels of 4 bytes, twice and once more for cudnn.
_BYTES_A_PIXEL = 3 * 64 * 4


class SCEditSoftEdge(io.ComfyNode):
    """IMAGE -> IMAGE, soft edges."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditSoftEdge",
            display_name="SCEdit Soft Edge (HED)",
            category=CATEGORY,
            description="Soft edges, as HED tuners were trained. Needs ControlNetHED.pth in "
            "models/scedit_annotators/hed.",
            inputs=[
                image_input(),
                io.Combo.Input(
                    "polarity",
                    options=list(POLARITIES),
                    default=POLARITIES[0],
                    tooltip="Released SCEdit tuners were trained on dark edges on light, most ControlNets on light "
                    "edges on dark. Auto is what the connected tuner's file says, else dark on light.",
                ),
                io.Boolean.Input(
                    "safe",
                    default=False,
                    tooltip="Edges in three levels only, which hides faint traces of the picture.",
                ),
                io.Boolean.Input(
                    "scribble",
                    default=False,
                    tooltip="Lines of one strength and width along the edges, as if drawn with a felt pen.",
                ),
                csc_tuner_input(),
            ],
            outputs=[condition_output()],
        )

    @classmethod
    def execute(cls, image, polarity, safe, scribble, csc_tuner=None) -> io.NodeOutput:
        options = chosen(csc_tuner, SoftEdgeOptions(polarity=polarity, safe=safe, scribble=scribble))
        detector = managed_detector("hed", lambda path: load_hed(path, operations=comfy.ops.manual_cast))
        device = loaded(image.shape[1] * image.shape[2] * _BYTES_A_PIXEL, detector)
        return shown(cls, one_by_one(image, lambda picture: soft_edge(picture, detector.module, options, device)))
