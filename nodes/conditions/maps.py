"""Depth and segmentation by detectors that lie in models/scedit_annotators, and segmentation of a ready label map."""

from __future__ import annotations

from comfy_api.latest import io

from ...scedit_core.conditions import segmentation as core
from ...scedit_core.conditions.annotators import names_for
from ...scedit_core.conditions.depth import DepthOptions, depth, load_depth
from .skeleton import CSC_TUNER, Condition, ConditionNode, needs

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


class SCEditSegmentation(ConditionNode):
    """IMAGE or a label map -> IMAGE, a colour for each class."""

    row = Condition(
        node_id="SCEditSegmentation",
        title="SCEdit Segmentation",
        description="Colours what is where, in the standard colours of ADE20K's 150 classes. Needs the chosen detector "
        "in models/scedit_annotators, or a ready label map.",
        options=core.SegmentationOptions,
        make=lambda picture, network, _, device: core.segmentation(picture, network, device),
        instead="labels",
        allowed={"detector": names_for("segmentation")},
        widgets={
            "detector": "UperNet and OneFormer see more, SegFormer B0 is quick. Each is a folder in "
            "models/scedit_annotators.",
            "labels_from_one": io.Boolean.Input(
                "labels_from_one",
                default=False,
                optional=True,
                tooltip="The connected labels count from 1 for wall and 0 is nothing, as in ADE20K's own files; else "
                "from 0 for wall.",
            ),
        },
        more=(
            io.Image.Input(
                "labels",
                optional=True,
                tooltip="A ready label map: a grey picture whose values of 0 to 255 are classes. It is coloured, and "
                "no detector is needed. With an image connected, it is stretched to its size.",
            ),
            CSC_TUNER,
        ),
        # The network's own at 512 pixels for the short side, and of each pixel ten logits and what is best so far.
        working_bytes=lambda height, width: 2**30 + height * width * 120,
        detectors={"detector": lambda path: core.load_segmentation(path.parent)},
    )

    @classmethod
    def made(cls, image, options, labels=None, labels_from_one=False):
        """Of labels where there are some."""
        if labels is None:
            return super().made(image, options)
        labels = core.labels_of(labels, labels_from_one)
        return (core.palette_picture(labels if image is None else core.stretched(labels, tuple(image.shape[1:3]))),)
