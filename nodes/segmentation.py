"""Segmentation with UperNet or SegFormer, which lie in models/scedit_annotators."""

from __future__ import annotations

import transformers  # noqa: F401  without it this node is missing, rather than failing when it runs
from comfy_api.latest import io

from ..scedit_core.conditions.annotators import names_for
from ..scedit_core.conditions.segmentation import load_segmentation, segmentation
from .condition_images import CATEGORY, condition_output, image_input, one_by_one, shown
from .detectors import managed_detector

# Bytes for each pixel beside the weights: 150 logits of 4 bytes, grown to the picture, twice.
_BYTES_A_PIXEL = 2 * 150 * 4
_NAMES = names_for("segmentation")


class SCEditSegmentation(io.ComfyNode):
    """IMAGE -> IMAGE, a colour for each class."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditSegmentation",
            display_name="SCEdit Segmentation",
            category=CATEGORY,
            description="What is where, in the standard colours of ADE20K's 150 classes. Needs the chosen detector in "
            "models/scedit_annotators.",
            inputs=[
                image_input(),
                io.Combo.Input(
                    "detector",
                    options=_NAMES,
                    default=_NAMES[0],
                    tooltip="UperNet sees more, SegFormer B0 is quick. Each is a folder in models/scedit_annotators.",
                ),
            ],
            outputs=[condition_output()],
        )

    @classmethod
    def execute(cls, image, detector) -> io.NodeOutput:
        managed = managed_detector(detector, lambda path: load_segmentation(path.parent))
        network, device = managed.loaded(image.shape[1] * image.shape[2] * _BYTES_A_PIXEL)
        return shown(cls, one_by_one(image, lambda picture: segmentation(picture, network, device)))
