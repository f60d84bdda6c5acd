"""Pose with RT-DETR and ViTPose, which lie in models/scedit_annotators, or drawn from keypoints of other nodes."""

from __future__ import annotations

from itertools import chain

from comfy_api.latest import io

from ..scedit_core.conditions.annotators import names_for
from ..scedit_core.conditions.keypoints import Frame, as_json, as_openpose, from_openpose
from ..scedit_core.conditions.pose import (
    PoseOptions,
    draw_frames,
    find_people,
    load_joint_finder,
    load_person_finder,
)
from ..scedit_core.errors import ConditionError
from .condition_images import CATEGORY, chosen, condition_output, csc_tuner_input, image_input, needs, one_by_one, shown
from .detectors import loaded, managed_detector

needs("cv2", "transformers")

# Bytes beside the weights: RT-DETR at 640 pixels a side, then eight people of 256 x 192 in ViTPose.
_WORKING_BYTES = 2**30
_PEOPLE, _JOINTS = names_for("people"), names_for("pose")
PoseKeypoints = io.Custom("POSE_KEYPOINT")  # the host's SDPose nodes have the same


class SCEditPose(io.ComfyNode):
    """IMAGE or POSE_KEYPOINT -> IMAGE, people as OpenPose draws them; POSE_KEYPOINT and JSON as well."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditPose",
            display_name="SCEdit Pose",
            category=CATEGORY,
            description="People as coloured limbs on black, as pose tuners were trained: OpenPose's 18 points. Needs "
            "the two chosen detectors in models/scedit_annotators, or keypoints from another node.",
            inputs=[
                io.Combo.Input(
                    "person_detector",
                    options=_PEOPLE,
                    default=_PEOPLE[0],
                    tooltip="Finds where people are. A folder in models/scedit_annotators.",
                ),
                io.Combo.Input(
                    "detector",
                    options=_JOINTS,
                    default=_JOINTS[0],
                    tooltip="Finds the joints of each person. A folder in models/scedit_annotators.",
                ),
                io.Float.Input(
                    "person_threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How sure the detector must be that there is a person, from 0 to 1. Raise it if it sees "
                    "people where there are none.",
                ),
                io.Float.Input(
                    "joint_threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How sure it must be of a joint, from 0 to 1. Joints below, and limbs to them, are left "
                    "out; this holds for connected keypoints too.",
                ),
                io.Boolean.Input(
                    "hands", default=True, tooltip="Draw hands where connected keypoints have them; ViTPose finds none."
                ),
                image_input(optional=True),
                PoseKeypoints.Input(
                    "keypoints",
                    optional=True,
                    tooltip="People that another node has found, such as SDPose: they are drawn, and no detector is "
                    "needed. With an image connected, they are stretched to its size.",
                ),
                csc_tuner_input(),
            ],
            outputs=[
                condition_output(),
                PoseKeypoints.Output(
                    display_name="keypoints", tooltip="The people found, for other nodes: pixels and scores."
                ),
                io.String.Output(
                    display_name="json", tooltip="The same as text in OpenPose's form: a list of pictures."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        person_detector,
        detector,
        person_threshold,
        joint_threshold,
        hands,
        image=None,
        keypoints=None,
        csc_tuner=None,
    ) -> io.NodeOutput:
        options = chosen(csc_tuner, PoseOptions(person_threshold, joint_threshold, hands, person_detector, detector))
        if keypoints is not None:
            frames = from_openpose(keypoints)
        elif image is not None:
            frames = _found(image, options)
        else:
            raise ConditionError("pose: expected an image or keypoints, found neither; connect one of them")
        size = None if image is None else tuple(image.shape[1:3])
        return shown(cls, draw_frames(frames, options, size), as_openpose(frames), as_json(frames))


def _found(image, options: PoseOptions) -> list[Frame]:
    people = managed_detector(options.person_detector, lambda path: load_person_finder(path.parent))
    joints = managed_detector(options.detector, lambda path: load_joint_finder(path.parent))
    device = loaded(_WORKING_BYTES, people, joints)
    return one_by_one(
        image,
        lambda picture: find_people(picture, people.module, joints.module, options, device),
        join=lambda parts: list(chain.from_iterable(parts)),
    )
