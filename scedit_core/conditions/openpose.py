"""People drawn as OpenPose draws them: coloured limbs and joints on black, as pose controls are trained."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable

import numpy as np
from torch import Tensor

from .keypoints import Person
from .opencv import opencv

_RADIUS = 4  # pixels: of a joint's disc, and half the thickness of a limb
_OVER = 0.6  # share of a limb's colour over what lies below
# Joints that a limb connects, in the order of drawing: shoulders and arms, legs, head.
_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7)),
    *((1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
# Of joints and limbs: once around the colour circle.
_COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
_FINGERS = tuple(tuple((0 if k == 0 else start + k - 1, start + k) for k in range(4)) for start in (1, 5, 9, 13, 17))
_BONES = tuple(bone for finger in _FINGERS for bone in finger)
_HAND_JOINT = (0, 0, 255)


def draw_people(people: Iterable[Person], height: int, width: int, threshold: float, hands: bool = True) -> np.ndarray:
    """People on black: uint8 [height,width,3], RGB.

    threshold: a point whose score is not above it is missing, as is one that lies further outside than the picture is
    large.  Missing points and what they would connect are left out.
    hands:     draw those that are there, over the bodies.

    Source: the authors' annotator (scepter.modules.annotator.openpose).
    """
    canvas = np.zeros((height, width, 3), np.uint8)
    people = list(people)
    bodies = [_present(person.body, height, width, threshold) for person in people]
    for joint, colour in enumerate(_COLOURS):
        for body in bodies:
            _disc(canvas, body[joint], colour)
    for (first, second), colour in zip(_LIMBS, _COLOURS, strict=False):  # 17 limbs, 18 colours
        for body in bodies:
            _limb(canvas, body[first], body[second], colour)
    for hand in (each for person in people for each in person.hands if hands):
        _hand(canvas, _present(hand, height, width, threshold))
    return canvas


Point = tuple[float, float]


def _present(points: Tensor, height: int, width: int, threshold: float) -> list[Point | None]:
    """x and y of each point, None where it is missing."""
    return [
        (x, y) if score > threshold and -width <= x <= 2 * width and -height <= y <= 2 * height else None
        for x, y, score in points.tolist()
    ]


def _disc(canvas: np.ndarray, point: Point | None, colour: tuple[int, int, int]) -> None:
    if point is not None:
        opencv().circle(canvas, (int(point[0]), int(point[1])), _RADIUS, colour, thickness=-1)


def _limb(canvas: np.ndarray, first: Point | None, second: Point | None, colour: tuple[int, int, int]) -> None:
    """An ellipse from joint to joint, laid over what is there.  Whole pixels and degrees, rounded to zero."""
    if first is None or second is None:
        return
    cv2 = opencv()
    across, down = first[0] - second[0], first[1] - second[1]
    middle = (int((first[0] + second[0]) / 2), int((first[1] + second[1]) / 2))
    axes = (int(math.hypot(across, down) / 2), _RADIUS)
    outline = cv2.ellipse2Poly(middle, axes, int(math.degrees(math.atan2(down, across))), 0, 360, 1)
    left, top = np.maximum(outline.min(0), 0)
    right, bottom = outline.max(0) + 1
    below = canvas[top : max(bottom, 0), left : max(right, 0)]
    if below.size == 0:  # it lies outside
        return
    inside = np.zeros(below.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, outline - np.array((left, top), np.int32), 1)
    inside = inside.astype(bool)
    below[inside] = np.rint((1 - _OVER) * below[inside] + _OVER * np.array(colour))


def _hand(canvas: np.ndarray, points: list[Point | None]) -> None:
    """Bones in the colours of the rainbow, then blue joints."""
    cv2 = opencv()
    for number, (first, second) in enumerate(_BONES):
        ends = (points[first], points[second])
        if None not in ends:
            colour = [255 * part for part in colorsys.hsv_to_rgb(number / len(_BONES), 1, 1)]
            cv2.line(canvas, *((int(x), int(y)) for x, y in ends), colour, thickness=2)
    for point in points:
        _disc(canvas, point, _HAND_JOINT)
