"""Segmentation with UperNet, SegFormer or OneFormer, which lie in models/scedit_annotators, or of a ready label map."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..scedit_core.conditions.annotators import names_for
from ..scedit_core.conditions.segmentation import (
    SegmentationOptions,
    labels_of,
    load_segmentation,
    palette_picture,
    segmentation,
    stretched,
)
from ..scedit_core.errors import ConditionError
from .condition_images import CATEGORY, chosen, condition_output, csc_tuner_input, image_input, needs, one_by_one, shown
from .detectors import loaded, managed_detector

needs("transformers")

# Bytes for each pixel beside the weights: 150 logits of 4 bytes, grown to the picture, twice.
_BYTES_A_PIXEL = 2 * 150 * 4
_NAMES = names_for("segmentation")


class SCEditSegmentation(io.ComfyNode):
    """IMAGE or a label map -> IMAGE, a colour for each class."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditSegmentation",
            display_name="SCEdit Segmentation",
            category=CATEGORY,
            description="What is where, in the standard colours of ADE20K's 150 classes. Needs the chosen detector in "
            "models/scedit_annotators, or a ready label map.",
            inputs=[
                io.Combo.Input(
                    "detector",
                    options=_NAMES,
                    default=_NAMES[0],
                    tooltip="UperNet and OneFormer see more, SegFormer B0 is quick. Each is a folder in "
                    "models/scedit_annotators.",
                ),
                io.Boolean.Input(
                    "labels_from_one",
                    default=False,
                    optional=True,
                    tooltip="The connected labels count from 1 for wall and 0 is nothing, as in ADE20K's own files; "
                    "else from 0 for wall.",
                ),
                image_input(optional=True),
                io.Image.Input(
                    "labels",
                    optional=True,
                    tooltip="A ready label map: a grey picture whose values of 0 to 255 are classes. It is coloured, "
                    "and no detector is needed. With an image connected, it is stretched to its size.",
                ),
                csc_tuner_input(),
            ],
            outputs=[condition_output()],
        )

    @classmethod
    def execute(cls, detector, labels_from_one=False, image=None, labels=None, csc_tuner=None) -> io.NodeOutput:
        options = chosen(csc_tuner, SegmentationOptions(detector=detector))
        if labels is not None:
            found = labels_of(labels, labels_from_one)
            return shown(cls, palette_picture(found if image is None else stretched(found, tuple(image.shape[1:3]))))
        if image is None:
            raise ConditionError("segmentation: expected an image or labels, found neither; connect one of them")
        return shown(cls, _coloured(image, options))


def _coloured(image: Tensor, options: SegmentationOptions) -> Tensor:
    managed = managed_detector(options.detector, lambda path: load_segmentation(path.parent))
    device = loaded(image.shape[1] * image.shape[2] * _BYTES_A_PIXEL, managed)
    return one_by_one(image, lambda picture: segmentation(picture, managed.module, device))
