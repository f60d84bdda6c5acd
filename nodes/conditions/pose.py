"""Pose with RT-DETR and ViTPose, which lie in models/scedit_annotators, or drawn from keypoints of other nodes."""

from __future__ import annotations

from itertools import chain

from comfy_api.latest import io

from ...scedit_core.conditions import pose as core
from ...scedit_core.conditions.annotators import names_for
from ...scedit_core.conditions.keypoints import as_json, as_openpose, from_openpose
from .skeleton import CONDITION, CSC_TUNER, Condition, ConditionNode, needs

needs("cv2", "transformers")

_SCORE = (0.0, 1.0, 0.01)
PoseKeypoints = io.Custom("POSE_KEYPOINT")  # the host's SDPose nodes have the same


class SCEditPose(ConditionNode):
    """IMAGE or POSE_KEYPOINT -> IMAGE, people as OpenPose draws them; POSE_KEYPOINT and JSON as well."""

    row = Condition(
        node_id="SCEditPose",
        title="SCEdit Pose",
        description="Draws people as coloured limbs on black, with OpenPose's 18 points, as pose tuners were trained "
        "on. Needs the two chosen detectors in models/scedit_annotators, or keypoints from another node.",
        options=core.PoseOptions,
        make=core.find_people,
        instead="keypoints",
        allowed={
            "person_detector": names_for("people"),
            "detector": names_for("pose"),
            "person_threshold": _SCORE,
            "joint_threshold": _SCORE,
        },
        widgets={
            "person_detector": "Finds where people are. A folder in models/scedit_annotators.",
            "detector": "Finds the joints of each person. A folder in models/scedit_annotators.",
            "person_threshold": "How sure the detector must be that there is a person, from 0 to 1. Raise it if it "
            "sees people where there are none.",
            "joint_threshold": "How sure it must be of a joint, from 0 to 1. Less certain joints and their "
            "limbs are left out, of connected keypoints too.",
            "hands": "Draw hands if the connected keypoints have them; ViTPose finds no hands.",
        },
        more=(
            PoseKeypoints.Input(
                "keypoints",
                optional=True,
                tooltip="People that another node has found, such as SDPose: they are drawn, and no detector is "
                "needed. With an image connected, they are stretched to its size.",
            ),
            CSC_TUNER,
        ),
        outputs=(
            CONDITION,
            PoseKeypoints.Output(
                display_name="keypoints", tooltip="The people found, for other nodes: pixels and scores."
            ),
            io.String.Output(display_name="json", tooltip="The same as text in OpenPose's form: a list of pictures."),
        ),
        # RT-DETR at 640 pixels a side, then eight people of 256 x 192 in ViTPose.
        working_bytes=lambda *_: 2**30,
        detectors={
            "person_detector": lambda path: core.load_person_finder(path.parent),
            "detector": lambda path: core.load_joint_finder(path.parent),
        },
    )

    @classmethod
    def made(cls, image, options, keypoints=None):
        """Of keypoints where there are some: they are drawn, and passed on."""
        found = cls.one_by_one(image, options) if keypoints is None else [from_openpose(keypoints)]
        frames = list(chain.from_iterable(found))
        size = None if image is None else tuple(image.shape[1:3])
        return core.draw_frames(frames, options, size), as_openpose(frames), as_json(frames)
