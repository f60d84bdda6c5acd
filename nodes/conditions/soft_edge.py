"""Soft edges with HED, whose weights lie in models/scedit_annotators/hed."""

from __future__ import annotations

import comfy.ops

from ...scedit_core.conditions.hed import load_hed
from ...scedit_core.conditions.soft_edge import POLARITIES, SoftEdgeOptions, soft_edge
from .skeleton import Condition, ConditionNode, needs

needs("cv2")


class SCEditSoftEdge(ConditionNode):
    """IMAGE -> IMAGE, soft edges."""

    row = Condition(
        node_id="SCEditSoftEdge",
        title="SCEdit Soft Edge (HED)",
        description="Draws soft edges with HED, as soft-edge tuners were trained on. Needs ControlNetHED.pth in "
        "models/scedit_annotators/hed.",
        options=SoftEdgeOptions,
        make=soft_edge,
        allowed={"polarity": POLARITIES},
        widgets={
            "polarity": "Released SCEdit tuners were trained on dark edges on light, most ControlNets on light edges "
            "on dark. Auto is what the connected tuner's file says, else dark on light.",
            "safe": "Only three levels of grey, which hides faint traces of the picture.",
            "scribble": "Lines of one strength and width along the edges, as if drawn with a felt pen.",
        },
        # The widest features, 64 channels of 4 bytes, twice and once more for cudnn.
        working_bytes=lambda height, width: height * width * 3 * 64 * 4,
        detectors={"hed": lambda path: load_hed(path, operations=comfy.ops.manual_cast)},
    )
