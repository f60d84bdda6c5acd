"""Scenes in a style, as pictures.  OpenCV draws at twice the size and shrinks, so that lines are smooth."""

from __future__ import annotations

import cv2
import numpy as np

from .scenes import COLOURS, CREAM, SIZE, Item, Scene, background_picture, placed
from .styles import PLAIN, STYLES, TUNER_STYLES, Style


def style_named(name: str) -> Style:
    """The plain style or one of TUNER_STYLES.  Raises ValueError for another name."""
    if name not in STYLES:
        raise ValueError(f"scene style: expected one of {STYLES}, found {name!r}; choose one of them")
    return TUNER_STYLES.get(name, PLAIN)


def draw(scene: Scene, style: Style | str = PLAIN, size: int = SIZE) -> np.ndarray:
    """Render a scene as [size, size, 3] uint8 RGB."""
    style = style_named(style) if isinstance(style, str) else style
    rng = np.random.default_rng(scene.seed)
    big = 2 * size
    canvas = _ground(scene, style, rng, big)
    light = np.zeros_like(canvas) if style.glow else None
    for item in scene.items:
        _object(canvas, light, item, style, rng)
    if light is not None:
        _shine(canvas, light, style.glow)
    if style.border:
        _bare_border(canvas, style, rng)
    picture = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if style.grain:
        noise = rng.normal(0, 255 * style.grain, (size, size, 1))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    return picture


def _ground(scene: Scene, style: Style, rng: np.random.Generator, size: int) -> np.ndarray:
    canvas = background_picture(scene.background, rng, size)
    if style.soft or style.wobble:
        canvas = cv2.GaussianBlur(canvas, (0, 0), 1 + 2 * style.soft)
    if style.ground is not None:
        tones = np.linspace(style.ground[0], style.ground[1], 256).astype(np.uint8)[None]  # by luma, as a duotone print
        toned = cv2.LUT(cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), tones)
        canvas = cv2.addWeighted(canvas, style.keep, toned, 1 - style.keep, 0)
    if style.blotch:
        canvas = _blotted(canvas, 0.5 * style.blotch, rng)
    if style.pattern != "none":
        mean = canvas.mean()
        ink = np.full_like(canvas, 255 if mean < 128 else 40)
        share = np.float32(0.25) * _pattern(style.pattern, size, rng)[..., None]
        canvas = (canvas * (1 - share) + ink * share).astype(np.uint8)
    return np.ascontiguousarray(canvas)


def _pattern(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A mask [size, size] of 0..1: lines or dots, far enough apart for the autoencoder to keep them."""
    mask = np.zeros((size, size), np.uint8)
    gap = int(rng.integers(size // 8, size // 5))
    start = int(rng.integers(0, gap))
    if kind == "grid":
        for at in range(start, size, gap):
            mask[at : at + 3] = mask[:, at : at + 3] = 255
    elif kind == "hatch":
        for at in range(start - size, size, gap):
            cv2.line(mask, (at, size), (at + size, 0), 255, 6, cv2.LINE_AA)
    else:
        for y in range(start, size, gap):
            for x in range(start, size, gap):
                cv2.circle(mask, (x, y), 8, 255, -1, cv2.LINE_AA)
    return mask * np.float32(1 / 255)


def _blotted(canvas: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    coarse = rng.normal(0, 1, (7, 7)).astype(np.float32)
    clouds = cv2.resize(coarse, canvas.shape[1::-1], interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(canvas * (1 + np.float32(0.22 * strength) * clouds), 0, 255).astype(np.uint8)


def _body_colour(item: Item, style: Style, rng: np.random.Generator) -> np.ndarray:
    colour = np.clip(np.array(COLOURS[item.colour]) + rng.integers(-10, 11, 3), 0, 255).astype(np.float32)
    if style.bright:
        colour *= 255 / colour.max()
    return colour.mean() + style.saturation * (colour - colour.mean())


def _object(canvas: np.ndarray, light: np.ndarray | None, item: Item, style: Style, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    parts = placed(item, size)
    if style.wobble:
        parts = [(_wobbled(points, style.wobble * size / 128, rng), fill) for points, fill in parts]
    colour = _body_colour(item, style, rng)
    width = max(1, round(style.width * size / 128))
    body = [points for points, fill in parts if fill is None]
    under = sum(fill is not None for _, fill in parts[:1])  # a mushroom's stalk lies under its cap
    mask = np.zeros((size, size), np.uint8)
    for points in body:
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA)
    if style.line is not None:  # every outline first, under the body, so that parts of the body melt together
        clear = canvas.copy() if style.strength < 1 else None
        for points in body:
            cv2.polylines(canvas, [points], True, style.line, 2 * width, cv2.LINE_AA)
        if clear is not None:  # no line between the parts shines through
            np.copyto(canvas, clear, where=(mask > 127)[..., None])
    if light is not None:
        light[mask > 127] = np.clip(colour, 0, 255)
    for points, fill in parts[:under]:
        _detail(canvas, points, fill, item, style, width)
    box = _around(np.concatenate(body), style, size)
    _lay(canvas[box], _filled(mask[box], colour, style, rng), mask[box], style)
    for points, fill in parts[under:]:
        if fill is not None:
            _detail(canvas, points, fill, item, style, width)


def _detail(canvas: np.ndarray, points: np.ndarray, fill: tuple, item: Item, style: Style, width: int) -> None:
    """Eyes, doors, spots, a stalk: filled in colours of their own, or as lines."""
    size = canvas.shape[0]
    stalk = fill == CREAM and points[:, 1].max() - points[:, 1].min() > 0.6 * item.radius * size
    lines = style.details == "lines" and style.line is not None
    if not lines or stalk:
        tone = np.array(fill, np.float32)
        tone = np.clip(tone.mean() + style.saturation * (tone - tone.mean()), 0, 255)
        if style.soft or style.strength < 1:
            mask = np.zeros((size, size), np.uint8)
            cv2.fillPoly(mask, [points], 255, cv2.LINE_AA)
            box = _around(points, style, size)
            _lay(canvas[box], tone, mask[box], style)
        else:
            cv2.fillPoly(canvas, [points], tone.tolist(), cv2.LINE_AA)
    if style.line is not None and (lines or stalk):
        thick = width if stalk else max(1, round(0.7 * width))
        cv2.polylines(canvas, [points], True, style.line, thick, cv2.LINE_AA)


def _around(points: np.ndarray, style: Style, size: int) -> tuple[slice, slice]:
    """The part of the canvas that a polygon touches, with room for its soft edge."""
    room = 2 + round(7 * style.soft)
    left, top = np.clip(points.min(0) - room, 0, size - 2)
    right, bottom = np.clip(points.max(0) + room + 1, 2, size)
    return np.s_[top:bottom, left:right]


def _lay(canvas: np.ndarray, layer: np.ndarray, mask: np.ndarray, style: Style) -> None:
    """Put `layer`, pixels or one colour, where the mask is; edges as soft and colours as strong as the style's."""
    if style.soft:
        mask = cv2.GaussianBlur(mask, (0, 0), 2 * style.soft)
    share = mask[..., None] * np.float32(style.strength / 255)
    canvas[:] = canvas * (1 - share) + np.float32(layer) * share + 0.5


def _filled(mask: np.ndarray, colour: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """The body's colour: flat, shaded, hatched or dotted, with its rim and blotches; one colour or [h,w,3]."""
    height, width = mask.shape
    layer = colour
    if style.fill == "shaded":
        ramp = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None, None]
        layer = colour * (1 - 0.55 * ramp) - 20 * ramp
    elif style.fill in ("hatched", "dotted"):
        other = colour * 0.55 if colour.mean() > 120 else colour + 0.5 * (255 - colour)
        marks = _pattern("hatch" if style.fill == "hatched" else "dots", 2 * SIZE, rng)[:height, :width, None]
        layer = colour + 0.7 * marks * (other - colour)
    layer = np.clip(layer, 0, 255)
    if style.blotch:
        layer = _blotted(np.broadcast_to(layer, (height, width, 3)), style.blotch, rng)
    if style.rim:
        inner = cv2.GaussianBlur(mask, (0, 0), SIZE / 24).astype(np.float32)[..., None] / 255
        layer = layer * (1 - style.rim * np.clip(1.8 * (1 - inner), 0, 1))
    return layer


def _wobbled(points: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    phase = rng.uniform(0, 6.28, 4)
    x, y = points[:, 0] / (6 * size + 8), points[:, 1] / (6 * size + 8)
    shift = np.stack(
        [np.sin(y + phase[0]) + np.sin(1.7 * x + phase[1]), np.sin(x + phase[2]) + np.sin(1.7 * y + phase[3])], 1
    )
    return np.rint(points + size * shift).astype(np.int32)


def _shine(canvas: np.ndarray, light: np.ndarray, strength: float) -> None:
    small = cv2.GaussianBlur(
        cv2.resize(light, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), (0, 0), light.shape[0] / 64
    )
    halo = cv2.resize(small, light.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
    halo[light.max(axis=2) > 0] *= 0.2  # what glows lights its surroundings more than itself
    canvas[:] = np.clip(canvas + strength * halo, 0, 255)


def _bare_border(canvas: np.ndarray, style: Style, rng: np.random.Generator) -> None:
    size = canvas.shape[0]
    width = style.border * size / 128
    paper = np.float32(style.ground[1] if style.tone == "pale" else (250, 247, 240))
    at = np.arange(size)
    edges = [width * (1 + 0.35 * np.sin(at / (0.11 * size) + p) + 0.2 * np.sin(at / (0.045 * size) + 2 * p))
             for p in rng.uniform(0, 6.28, 4)]  # fmt: skip
    inside = np.ones((size, size), np.float32)
    for edge, far in zip(edges, (at[:, None], size - at[:, None], at[None], size - at[None]), strict=True):
        along = edge[None] if far.shape[1] == 1 else edge[:, None]
        inside *= np.clip((far - along) / 4 + 0.5, 0, 1)
    canvas[:] = canvas * inside[..., None] + paper * (1 - inside[..., None])
