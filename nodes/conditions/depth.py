"""Depth with MiDaS DPT-hybrid or Depth Anything V2, which lie in models/scedit_annotators."""

from __future__ import annotations

from ...scedit_core.conditions.annotators import names_for
from ...scedit_core.conditions.depth import DepthOptions, depth, load_depth
from .skeleton import Condition, ConditionNode, needs

needs("transformers")


class SCEditDepth(ConditionNode):
    """IMAGE -> IMAGE, near is light."""

    row = Condition(
        node_id="SCEditDepth",
        title="SCEdit Depth",
        description="Makes a depth map in which near is light, as depth tuners were trained on. Needs the chosen "
        "detector in models/scedit_annotators.",
        options=DepthOptions,
        make=depth,
        allowed={"detector": names_for("depth")},
        widgets={
            "detector": "dpt-hybrid-midas is what the released tuners were trained on; Depth Anything is sharper. "
            "Each is a folder in models/scedit_annotators.",
            "invert": "Near is dark, which some other controls want.",
        },
        # Attention and fusion at the largest working size, 1024 pixels for the short side.
        working_bytes=lambda *_: 2 * 2**30,
        detectors={"detector": lambda path: load_depth(path.parent)},
    )
