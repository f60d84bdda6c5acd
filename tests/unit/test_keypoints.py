"""Keypoints: COCO's points as OpenPose's, and the form in which OpenPose and the host pass them on."""

from __future__ import annotations

import json

import pytest
import torch

from scedit_core.conditions.keypoints import Frame, Person, as_json, as_openpose, from_coco, from_openpose
from scedit_core.errors import ConditionError

_COCO = """
nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist
left_hip right_hip left_knee right_knee left_ankle right_ankle
"""
_OPENPOSE = """
nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee right_ankle
left_hip left_knee left_ankle right_eye left_eye right_ear left_ear
"""
COCO, OPENPOSE = _COCO.split(), _OPENPOSE.split()


def someone(seed: int = 0, hands: bool = False) -> Person:
    draw = torch.Generator().manual_seed(seed)
    found = from_coco(100 * torch.rand(17, 2, generator=draw), torch.rand(17, generator=draw))
    return Person(found.body, torch.rand(2, 21, 3, generator=draw)) if hands else found


def test_each_point_of_coco_has_its_place():
    points = torch.arange(34.0).reshape(17, 2)
    scores = torch.linspace(0.1, 0.9, 17)
    body = from_coco(points, scores).body
    for place, name in enumerate(OPENPOSE):
        if name != "neck":
            assert torch.equal(body[place, :2], points[COCO.index(name)])
            assert body[place, 2] == scores[COCO.index(name)]
    left, right = COCO.index("left_shoulder"), COCO.index("right_shoulder")
    assert torch.equal(body[1, :2], (points[left] + points[right]) / 2)
    assert body[1, 2] == min(scores[left], scores[right])


def test_what_is_passed_on_can_be_read_again():
    frames = [Frame(60, 80, [someone(1), someone(2, hands=True)]), Frame(60, 80, [])]
    for passed_on in (as_openpose(frames), json.loads(as_json(frames))):
        found = from_openpose(passed_on)
        assert [(frame.height, frame.width, len(frame.people)) for frame in found] == [(60, 80, 2), (60, 80, 0)]
        for ours, theirs in zip(frames[0].people, found[0].people, strict=True):
            assert torch.equal(ours.body, theirs.body)
            assert torch.equal(ours.hands, theirs.hands)
    person = as_openpose(frames)[0]["people"][0]
    lengths = {key: len(value) for key, value in person.items()}
    assert lengths == {
        "pose_keypoints_2d": 54,
        "face_keypoints_2d": 210,
        "hand_left_keypoints_2d": 63,
        "hand_right_keypoints_2d": 63,
    }


def test_a_body_of_25_points_loses_hips_middle_and_feet():
    """OpenPose's newer order: as the 18, with the middle of the hips in ninth place and six points of feet last."""
    points = [[float(i), float(i), 1.0] for i in range(25)]
    flat = [v for point in points for v in point]
    person = {"pose_keypoints_2d": flat, "hand_left_keypoints_2d": []}
    found = from_openpose({"canvas_width": 9, "canvas_height": 9, "people": [person]})[0].people[0]
    assert found.body[:, 0].tolist() == [*range(8), *range(9, 19)]
    assert not found.hands.any()


def test_fractions_of_the_canvas_are_pixels():
    """As the OpenPose of a well-known pack gives them; its DWPose gives pixels."""
    frame = Frame(256, 512, [someone(1, hands=True), someone(2)])
    passed_on = as_openpose([frame])
    for person in passed_on[0]["people"]:
        for key, numbers in person.items():
            person[key] = [n / (512, 256, 1)[i % 3] for i, n in enumerate(numbers)]
    (found,) = from_openpose(passed_on)
    for person, expected in zip(found.people, frame.people, strict=True):
        torch.testing.assert_close(person.body, expected.body, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.people[0].hands, frame.people[0].hands, atol=1e-4, rtol=0)


def test_points_that_are_missing():
    """As the host's nodes mark them (-1, -1), and what is no number."""
    body = [5.0, 6.0, 0.9] * 18
    body[0:3], body[3:6] = [-1, -1, 0.9], [float("nan"), 3, 0.9]
    found = from_openpose([{"canvas_width": 9, "canvas_height": 9, "people": [{"pose_keypoints_2d": body}]}])
    assert not found[0].people[0].body[:2].any()
    assert (found[0].people[0].body[2:] == torch.tensor([5, 6, 0.9])).all()


CANVAS = {"canvas_width": 8, "canvas_height": 8}


@pytest.mark.parametrize(
    ("keypoints", "words"),
    [
        ("a text", "a list of pictures"),
        ([1], "a list of pictures"),
        ([{"people": []}], "canvas_height"),
        ([{"canvas_width": 8, "canvas_height": 10**9, "people": []}], "canvas_height"),
        ([CANVAS], "a list of people"),
        ([{**CANVAS, "people": [1]}], "a list of people"),
        ([{**CANVAS, "people": [{"pose_keypoints_2d": [1, 2]}]}], "54 or 75 numbers"),
        ([{**CANVAS, "people": [{"pose_keypoints_2d": 7}]}], "numbers in pose_keypoints_2d"),
        ([{**CANVAS, "people": [{"pose_keypoints_2d": ["x"] * 54}]}], "numbers in pose_keypoints_2d"),
        ([{**CANVAS, "people": [{"hand_right_keypoints_2d": [1.0] * 60}]}], "63 numbers"),
    ],
)
def test_what_are_no_keypoints_is_refused(keypoints, words, one_sentence):
    with pytest.raises(ConditionError) as raised:
        from_openpose(keypoints)
    one_sentence(raised, "keypoints", words)
