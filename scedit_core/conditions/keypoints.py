"""People as keypoints: OpenPose's 18 points, and the JSON form in which OpenPose and the host pass them on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConditionError

BODY, HAND, FACE = 18, 21, 70  # points of each, in OpenPose's order
# Where OpenPose's points lie among COCO's 17: nose, neck (which COCO lacks), right arm, left arm, right leg, left leg,
# right eye, left eye, right ear, left ear.
_FROM_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_SHOULDERS = (5, 6)
_MID_HIP, _FEET = 8, 19  # what OpenPose's 25-point body has besides
_LARGEST_CANVAS = 16384
_LARGEST_FRACTION = 2.0  # of points that lie outside of the picture


class Person(NamedTuple):
    """body: [18,3]; hands: [2,21,3], left and right.  A point is x, y in pixels and a score, which is 0 if missing."""

    body: Tensor
    hands: Tensor


class Frame(NamedTuple):
    """The people in a picture of height x width pixels."""

    height: int
    width: int
    people: list[Person]


def from_coco(points: Tensor, scores: Tensor) -> Person:
    """COCO's 17 points [17,2] and their scores [17] as OpenPose's 18, the neck being the middle of the shoulders."""
    body = torch.zeros(BODY, 3)
    for mine, theirs in enumerate(_FROM_COCO):
        if theirs is not None:
            body[mine] = torch.cat([points[theirs], scores[theirs, None]])
    left, right = _SHOULDERS
    body[1, :2] = (points[left] + points[right]) / 2
    body[1, 2] = torch.minimum(scores[left], scores[right])
    return Person(body, torch.zeros(2, HAND, 3))


def as_openpose(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """What the host's type POSE_KEYPOINT carries: for each picture canvas_width, canvas_height and people.

    Points are flat lists x, y, score in pixels, as in OpenPose's files; absent hands and faces are zeros, because
    readers count on their length.
    """
    found = []
    for frame in frames:
        people = [
            {
                "pose_keypoints_2d": person.body.flatten().tolist(),
                "face_keypoints_2d": [0.0] * (3 * FACE),
                "hand_left_keypoints_2d": person.hands[0].flatten().tolist(),
                "hand_right_keypoints_2d": person.hands[1].flatten().tolist(),
            }
            for person in frame.people
        ]
        found.append({"version": 1.3, "people": people, "canvas_width": frame.width, "canvas_height": frame.height})
    return found


def as_json(frames: Sequence[Frame]) -> str:
    """`as_openpose` as text: a list with one object for each picture."""
    return json.dumps(as_openpose(frames))


def from_openpose(frames: Any) -> list[Frame]:
    """The inverse of `as_openpose`, for what the host's nodes and OpenPose give.

    Bodies have 18 points, or OpenPose's 25, whose feet are left out; hands may be absent.  Raises ConditionError for
    anything else.
    """
    frames = [frames] if isinstance(frames, dict) else frames
    if not isinstance(frames, (list, tuple)) or not all(isinstance(frame, dict) for frame in frames):
        raise _no_keypoints("a list of pictures with their people", type(frames).__name__)
    return [_frame(frame) for frame in frames]


def _frame(frame: dict) -> Frame:
    size = [frame.get(key) for key in ("canvas_height", "canvas_width")]
    for side in size:
        if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= _LARGEST_CANVAS:
            raise _no_keypoints(f"canvas_height and canvas_width from 1 to {_LARGEST_CANVAS}", size)
    people = frame.get("people")
    if not isinstance(people, (list, tuple)) or not all(isinstance(person, dict) for person in people):
        raise _no_keypoints("a list of people", type(people).__name__)
    return Frame(*size, _in_pixels([_person(person) for person in people], *size))


def _in_pixels(people: list[Person], height: int, width: int) -> list[Person]:
    """Some detectors of other packs give fractions of the canvas; in pixels no people fit into its first two."""
    points = [part.reshape(-1, 3)[:, :2] for person in people for part in (person.body, person.hands)]
    if not points or torch.cat(points).abs().max() > _LARGEST_FRACTION:
        return people
    scale = torch.tensor([width, height, 1.0])
    return [Person(person.body * scale, person.hands * scale) for person in people]


def _person(person: dict) -> Person:
    body = _points(person, "pose_keypoints_2d", (BODY, BODY + 7))
    if len(body) > BODY:
        body = torch.cat([body[:_MID_HIP], body[_MID_HIP + 1 : _FEET]])
    hands = [_points(person, f"hand_{side}_keypoints_2d", (HAND,)) for side in ("left", "right")]
    return Person(body, torch.stack(hands))


def _points(person: dict, key: str, counts: tuple[int, ...]) -> Tensor:
    """Points [n,3] of one of the allowed counts; zeros for those that are absent."""
    numbers = person.get(key) or [0.0] * (3 * counts[0])
    allowed = [3 * count for count in counts]
    try:
        points = torch.tensor([float(number) for number in numbers])
    except (TypeError, ValueError):
        raise _no_keypoints(f"numbers in {key}", type(numbers).__name__) from None
    if len(points) not in allowed:
        raise _no_keypoints(f"{' or '.join(map(str, allowed))} numbers in {key}", len(points))
    points = points.reshape(-1, 3)
    missing = ~points.isfinite().all(1) | (points[:, :2] == -1).all(1)  # -1, -1 is how the host's nodes say missing
    return points.masked_fill(missing[:, None], 0)


def _no_keypoints(expected: str, found: Any) -> ConditionError:
    return ConditionError(
        f"keypoints: expected {expected}, found {str(found)[:80]}; connect POSE_KEYPOINT of a node that finds people"
    )
