"""Rendered scenes for training the parts of the embedded base, as arrays and as files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from scedit_core.conditions.canny import canny

from .painting import draw, style_named
from .scenes import SIZE, Scene, random_scene, told_style
from .styles import Style, random_style

GRAIN = {"family": None, "family without grain": False, "grainy": True}


def random_scenes(count: int, seed: int, held_out: bool | None = False) -> list[Scene]:
    """The facts of `count` scenes; see `scenes.random_scene`."""
    rng = np.random.default_rng(seed)
    return [random_scene(rng, held_out) for _ in range(count)]


def family(
    count: int, seed: int, held_out: bool | None = False, grain: bool | None = None
) -> tuple[list[Scene], list[Style]]:
    """`count` random scenes, each with a style of the wide family, of which some captions tell a word or two.

    grain: None as it comes, False in none, True in all.
    """
    scenes, styles = random_scenes(count, seed, held_out), []
    for i, scene in enumerate(scenes):
        rng = np.random.default_rng((seed, i))
        style = random_style(rng, grain=grain is None)
        styles.append(replace(style, grain=0.04) if grain else style)
        scenes[i] = told_style(scene, styles[-1].words(), rng)
    return scenes, styles


def rendered(count: int, seed: int, style: str = "plain", held_out: bool | None = False) -> tuple[np.ndarray, list]:
    """Render `count` random scenes.  Returns images [count, SIZE, SIZE, 3] uint8 and the list of their Scenes.

    style: "plain", a tuner's style, or "family": a random style for each; "family without grain" and "grainy" are the
    parts of it for which the autoencoder is measured.
    """
    if style in GRAIN:
        scenes, styles = family(count, seed, held_out, GRAIN[style])
    else:
        scenes = random_scenes(count, seed, held_out)
        styles = [style_named(style)] * count
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for image, scene, drawn in zip(images, scenes, styles, strict=True):
        image[:] = draw(scene, drawn)
    return images, scenes


def clutter(count: int, seed: int) -> np.ndarray:
    """Random polygons, strokes and blurs: what the autoencoder should also be able to show.  [count, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(seed)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for image in images:
        canvas = np.full((2 * SIZE, 2 * SIZE, 3), rng.integers(0, 256, 3), np.uint8)
        for _ in range(rng.integers(3, 14)):
            colour = tuple(int(v) for v in rng.integers(0, 256, 3))
            points = rng.integers(0, 2 * SIZE, (rng.integers(2, 7), 2)).astype(np.int32)
            if rng.random() < 0.5:
                cv2.fillPoly(canvas, [points], colour, cv2.LINE_AA)
            else:
                cv2.polylines(canvas, [points], rng.random() < 0.5, colour, int(rng.integers(2, 12)), cv2.LINE_AA)
        if rng.random() < 0.2:
            canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1, 6))
        image[:] = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return images


def write_pictures(folder: Path, count: int, seed: int, style: str) -> None:
    """Render `count` training scenes to PNG files with .txt captions."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, (image, scene) in enumerate(zip(*rendered(count, seed, style), strict=True)):
        _write(folder / f"{i:05d}", image, scene.caption)


def write_control_pictures(folder: Path, hints: Path, count: int, seed: int) -> None:
    """Render `count` training scenes of the family without grain as `write_pictures` does, and canny hints of them.

    Half have no outlines, and hints are of the drawing before soft edges, glow and bare borders: so the control learns
    where things are, and leaves how they are drawn to the prompt and to other tuners.
    """
    for each in (folder, hints):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    for i, scene in enumerate(random_scenes(count, seed)):
        rng = np.random.default_rng((seed, i))
        unlined = rng.random() < 0.45
        style = random_style(rng, 0.0 if unlined else 0.45, grain=False)
        while unlined and style.line is not None:
            style = random_style(rng, 0.0, grain=False)
        _write(folder / f"{i:05d}", draw(scene, style), told_style(scene, style.words(), rng).caption)
        clean = draw(scene, replace(style, soft=0.0, glow=0.0, border=0.0))
        edges = canny(torch.from_numpy(clean)[None].float() / 255)[0]
        _write(hints / f"{i:05d}", (255 * edges).byte().numpy())


def _write(place: Path, image: np.ndarray, caption: str | None = None) -> None:
    cv2.imwrite(f"{place}.png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if caption is not None:
        place.with_suffix(".txt").write_text(caption + "\n", "utf-8")
