"""What is to be seen in the pictures of the embedded base: objects, places, grounds, captions, and their outlines.

A scene is one or two coloured objects in front of a background.  `painting.draw` renders it in any of the styles of
`styles`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

SIZE = 128
SHAPES = ("star", "heart", "fish", "house", "mushroom", "cat")
COLOURS = {
    "red": (214, 40, 40),
    "yellow": (250, 205, 40),
    "green": (40, 165, 70),
    "blue": (40, 100, 225),
    "purple": (135, 60, 190),
    "white": (245, 245, 245),
}
BACKGROUNDS = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "night": "at night",
    "desert": "in a desert",
    "room": "in a room",
}
PLACES = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
OUTLINE = (35, 30, 45)
CREAM = (250, 235, 205)


@dataclass(frozen=True)
class Item:
    """One object.  `x`, `y` (centre) and `radius` are fractions of the image, `tilt` is in degrees."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    tilt: float = 0.0


@dataclass(frozen=True)
class Scene:
    """What is to be seen: objects from left to right, a background, and the caption that tells it."""

    items: tuple[Item, ...]
    background: str
    caption: str
    seed: int = 0


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """True for the 30 of 180 combinations that no training scene shows; quality is measured on these alone."""
    a, b, c = SHAPES.index(shape), list(COLOURS).index(colour), list(BACKGROUNDS).index(background)
    return (a + 2 * b + 3 * c) % 6 == 0


def random_scene(rng: np.random.Generator, held_out: bool | None = False) -> Scene:
    """Draw the facts of one scene.  `held_out`: False for training, True for held-out, None for all combinations."""
    background = str(rng.choice(list(BACKGROUNDS)))
    pair = rng.random() < 0.25
    items = []
    for index in range(2 if pair else 1):
        while True:
            shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
            if held_out is not None and is_held_out(shape, colour, background) != held_out:
                continue
            if items and (items[0].shape, items[0].colour) == (shape, colour):
                continue
            break
        place = ("left", "right")[index] if pair else str(rng.choice(list(PLACES)))
        centre = {"left": 0.27 if pair else 0.36, "middle": 0.5, "right": 0.73 if pair else 0.64}[place]
        radius = rng.uniform(0.2, 0.235) if pair else rng.uniform(0.28, 0.34)
        items.append(
            Item(shape, colour, centre + rng.uniform(-0.03, 0.03), rng.uniform(0.5, 0.6), radius, rng.uniform(-10, 10))
        )
    return Scene(tuple(items), background, _caption(rng, items, background), int(rng.integers(2**31)))


def mirrored_caption(text: str) -> str:
    """The caption of the same scene flipped left to right."""
    head, _, tail = text.partition(", ")
    if " and " in head:
        first, second = head.split(" and ")
        head = f"{second} and {first}"
    elif "on the left" in head:
        head = head.replace("left", "right")
    else:
        head = head.replace("right", "left")
    return f"{head}, {tail}" if tail else head


def _caption(rng: np.random.Generator, items: list[Item], background: str) -> str:
    text = " and ".join(f"a {i.colour} {i.shape}" for i in items)
    if len(items) == 1 and rng.random() < 0.6:
        x = items[0].x
        text += " " + PLACES["left" if x < 0.43 else "right" if x > 0.57 else "middle"]
    if rng.random() < 0.9:
        text += ", " + BACKGROUNDS[background]
    return text


def objects_alone(caption: str) -> str:
    """The caption without places, background and style: "a red star" of "a red star on the left, at night"."""
    head = caption.partition(", ")[0]
    for place in PLACES.values():
        head = head.removesuffix(f" {place}")
    return head


def told_style(scene: Scene, words: list[str], rng: np.random.Generator) -> Scene:
    """The same scene, one time in five with one or two of the words about its style at the end of the caption."""
    if not words or rng.random() < 0.8:
        return scene
    told = rng.permutation(words)[: 1 + int(rng.random() < 0.4)]
    return replace(scene, caption=f"{scene.caption}, {' '.join(map(str, told))}")


# --- backgrounds --------------------------------------------------------------------------------------------------


def _gradient(top: tuple, bottom: tuple, size: int) -> np.ndarray:
    t = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    ramp = np.float32(top) * (1 - t) + np.float32(bottom) * t
    return np.ascontiguousarray(np.broadcast_to(ramp, (size, size, 3)).astype(np.uint8))


def _hill(canvas: np.ndarray, height: float, wave: float, phase: float, colour: tuple) -> None:
    size = canvas.shape[0]
    x = np.linspace(0, 1, 33)
    y = height + wave * np.sin(2 * np.pi * x + phase)
    line = np.stack([x * size, y * size], 1)
    cv2.fillPoly(canvas, [np.vstack([line, [[size, size], [0, size]]]).astype(np.int32)], colour, cv2.LINE_AA)


def background_picture(kind: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """The ground in its natural colours, [size, size, 3] uint8 RGB."""
    level, phase = rng.uniform(0.66, 0.74), rng.uniform(0, 6.28)
    if kind == "meadow":
        canvas = _gradient((140, 205, 250), (215, 240, 252), size)
        _hill(canvas, level, 0.02, phase, (125, 200, 90))
    elif kind == "beach":
        canvas = _gradient((250, 225, 190), (255, 240, 215), size)
        cv2.rectangle(canvas, (0, int(0.42 * size)), (size, size), (70, 190, 200), -1)
        _hill(canvas, level + 0.04, 0.015, phase, (240, 215, 150))
    elif kind == "night":
        canvas = _gradient((16, 18, 60), (46, 40, 105), size)
        for _ in range(9):
            centre = (int(rng.uniform(0, 1) * size), int(rng.uniform(0, 0.6) * size))
            cv2.circle(canvas, centre, 3, (230, 230, 200), -1, cv2.LINE_AA)
        cv2.circle(canvas, (int(0.86 * size), int(0.13 * size)), int(0.07 * size), (245, 240, 205), -1, cv2.LINE_AA)
        _hill(canvas, level + 0.1, 0.02, phase, (24, 22, 52))
    elif kind == "desert":
        canvas = _gradient((245, 140, 90), (255, 205, 130), size)
        _hill(canvas, level - 0.05, 0.05, phase, (225, 150, 85))
        _hill(canvas, level + 0.08, 0.03, phase + 2, (205, 120, 65))
    else:
        canvas = _gradient((245, 190, 205), (240, 180, 198), size)
        floor = int((level + 0.03) * size)
        cv2.rectangle(canvas, (0, floor), (size, size), (150, 100, 75), -1)
        cv2.rectangle(canvas, (0, floor), (size, floor + size // 48), (250, 245, 240), -1)
    return canvas


# --- objects ------------------------------------------------------------------------------------------------------


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0, end: float = 360) -> np.ndarray:
    t = np.deg2rad(np.linspace(start, end, 48, endpoint=end - start < 360))
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1)


def _star() -> np.ndarray:
    t = np.deg2rad(np.arange(10) * 36 - 90)
    r = np.where(np.arange(10) % 2 == 0, 1.05, 0.46)
    return np.stack([r * np.cos(t), r * np.sin(t)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.5, y / 16.5], 1)


_BODY = np.float64
# Each object: parts (outline in units of the radius, fill), drawn in order; None stands for the object's own colour.
_PARTS: dict[str, list[tuple[np.ndarray, tuple | None]]] = {
    "star": [(_star(), None)],
    "heart": [(_heart(), None)],
    "fish": [
        (_BODY([[0.45, 0], [1.1, -0.6], [1.0, 0], [1.1, 0.6]]), None),
        (_ellipse(-0.2, 0, 0.85, 0.62), None),
        (_ellipse(-0.55, -0.1, 0.22, 0.22), (250, 250, 250)),
        (_ellipse(-0.6, -0.1, 0.11, 0.11), OUTLINE),
    ],
    "house": [
        (_BODY([[-0.75, -0.1], [0.75, -0.1], [0.75, 0.9], [-0.75, 0.9]]), None),
        (_BODY([[-1.0, -0.08], [0, -0.98], [1.0, -0.08]]), None),
        (_BODY([[-0.2, 0.35], [0.2, 0.35], [0.2, 0.9], [-0.2, 0.9]]), (110, 70, 50)),
        (_BODY([[-0.62, 0.02], [-0.3, 0.02], [-0.3, 0.38], [-0.62, 0.38]]), (190, 230, 245)),
        (_BODY([[0.3, 0.02], [0.62, 0.02], [0.62, 0.38], [0.3, 0.38]]), (190, 230, 245)),
    ],
    "mushroom": [
        (np.vstack([_ellipse(0, 0.1, 0.32, 0.85, 0, 180)]), CREAM),
        (np.vstack([_ellipse(0, 0.1, 1.0, 0.95, 180, 360)]), None),
        (_ellipse(-0.5, -0.22, 0.2, 0.2), CREAM),
        (_ellipse(0.05, -0.5, 0.22, 0.2), CREAM),
        (_ellipse(0.55, -0.17, 0.18, 0.18), CREAM),
    ],
    "cat": [
        (_BODY([[-0.82, -0.1], [-0.78, -1.0], [-0.15, -0.55]]), None),
        (_BODY([[0.82, -0.1], [0.78, -1.0], [0.15, -0.55]]), None),
        (_ellipse(0, 0.12, 0.92, 0.76), None),
        (_ellipse(-0.38, 0.02, 0.23, 0.28), (250, 250, 250)),
        (_ellipse(0.38, 0.02, 0.23, 0.28), (250, 250, 250)),
        (_ellipse(-0.36, 0.04, 0.12, 0.19), OUTLINE),
        (_ellipse(0.36, 0.04, 0.12, 0.19), OUTLINE),
        (_BODY([[-0.16, 0.38], [0.16, 0.38], [0, 0.58]]), (240, 150, 160)),
    ],
}


def placed(item: Item, size: int) -> list[tuple[np.ndarray, tuple | None]]:
    """The parts of an object as polygons [K,2] in pixels, in drawing order, with their fill; None: its own colour."""
    angle = np.deg2rad(item.tilt)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    move = np.array([item.x, item.y])
    return [
        (np.rint((points @ turn.T * item.radius + move) * size).astype(np.int32), fill)
        for points, fill in _PARTS[item.shape]
    ]
