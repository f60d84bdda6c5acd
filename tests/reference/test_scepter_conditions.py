"""Condition images beside those of scepter's annotators, on photographs from scikit-image's wheel."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data

from scedit_core.conditions.canny import canny
from scedit_core.conditions.color_palette import color_palette
from scedit_core.conditions.completion import Margins, inpainting, outpainting
from scedit_core.conditions.hed import HED
from scedit_core.conditions.keypoints import Person
from scedit_core.conditions.openpose import draw_people
from scedit_core.conditions.soft_edge import SoftEdgeOptions, soft_edge

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


@pytest.fixture(params=PHOTOGRAPHS)
def photograph(request) -> np.ndarray:
    """uint8 [H,W,3]."""
    return getattr(data, request.param)()


@pytest.fixture(scope="session")
def annotator(authors):
    """One of their annotators, by module and class, with its defaults."""
    from scepter.modules.utils.config import Config

    def make(module: str, name: str, **options):
        kind = getattr(importlib.import_module(f"scepter.modules.annotator.{module}"), name)
        return kind(Config(cfg_dict={"NAME": name, **options}, load=False))

    return make


def as_image(photograph: np.ndarray) -> torch.Tensor:
    """As the host has it: [1,H,W,3] in 0..1."""
    return torch.from_numpy(photograph)[None].float() / 255


def as_bytes(image: torch.Tensor) -> np.ndarray:
    """The inverse of `as_image`; what is no whole byte fails the test."""
    values = image[0] * 255
    assert (values - values.round()).abs().max() < 1e-3
    return values.round().to(torch.uint8).numpy()


def test_canny_is_theirs_bit_for_bit(annotator, photograph):
    theirs = annotator("canny", "CannyAnnotator")(photograph)
    assert np.array_equal(as_bytes(canny(as_image(photograph))), theirs)


def test_color_palette_is_theirs_bit_for_bit(annotator, photograph):
    theirs = annotator("color", "ColorAnnotator")(photograph)
    assert np.array_equal(as_bytes(color_palette(as_image(photograph))), theirs)


def test_inpainting_is_theirs_bit_for_bit(annotator, photograph):
    mask = np.zeros(photograph.shape[:2], np.uint8)
    mask[40:170, 90:201] = 255
    theirs = annotator("inpainting", "InpaintingAnnotator")(photograph, mask=mask)
    theirs = theirs["image"] if isinstance(theirs, dict) else theirs
    ours = inpainting(as_image(photograph), torch.from_numpy(mask)[None].float() / 255)
    assert np.array_equal(as_bytes(ours.hint), theirs)


@pytest.mark.parametrize("direction", [["left", "right", "up", "down"], ["left"], ["right", "down"]], ids="-".join)
def test_outpainting_is_theirs_bit_for_bit(annotator, photograph, direction):
    height, width = (64 * (n // 64) for n in photograph.shape[:2])
    photograph = photograph[:height, :width]
    theirs = annotator("outpainting", "OutpaintingAnnotator", RETURN_MASK=True)(photograph, 0.3, direction=direction)
    across, down = int(0.3 * width), int(0.3 * height)
    margins = Margins(
        left=across * ("left" in direction),
        top=down * ("up" in direction),
        right=across * ("right" in direction),
        bottom=down * ("down" in direction),
    )
    ours = outpainting(as_image(photograph), margins)
    assert np.array_equal(as_bytes(ours.hint), theirs["image"])
    assert np.array_equal(ours.mask[0].numpy() * 255, theirs["mask"])


@pytest.fixture(scope="session")
def hed_pair(annotator, fill) -> tuple:
    """Their HED annotator and our network with the same random weights."""
    theirs = annotator("hed", "HedAnnotator")
    fill(theirs.netNetwork, 3)
    with torch.no_grad():
        theirs.netNetwork.norm.copy_(torch.tensor([120.0, 115.0, 100.0])[:, None, None])
        for i in range(1, 6):  # edges spread over 0..1, in place of a single value
            getattr(theirs.netNetwork, f"block{i}").projection.weight.mul_(0.2)
    ours = HED()
    ours.load_state_dict(theirs.netNetwork.state_dict())
    return theirs, ours.eval().requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 128), (101, 75)], ids=str)
def test_hed_is_theirs(hed_pair, photograph, size):
    theirs, ours = hed_pair
    part = np.ascontiguousarray(photograph[100 : 100 + size[0], 100 : 100 + size[1]])
    maps = theirs.netNetwork(torch.from_numpy(part).permute(2, 0, 1)[None].float())
    grown = [F.interpolate(m, size=size, mode="bilinear", antialias=True) for m in maps]
    expected = torch.sigmoid(torch.cat(grown, 1).mean(1))[0]
    light = soft_edge(as_image(part), ours, SoftEdgeOptions(polarity="light_on_dark"))[0, ..., 0]
    assert expected.std() > 0.02
    assert (light - expected).abs().max() < 1e-5
    # What their annotator gives is this, inverted and in bytes.
    dark = soft_edge(as_image(part), ours)[0].numpy() * 255
    assert np.abs(dark - theirs(part)[0]).max() <= 1.01


@pytest.fixture(scope="session")
def their_drawing(authors):
    """Their functions that draw bodies and hands."""
    reference = importlib.import_module("scepter.modules.annotator.openpose")
    return reference.draw_bodypose, reference.draw_handpose


def crowd(case: str, height: int, width: int) -> list[torch.Tensor]:
    """Bodies [18,3] at random: points anywhere in the picture, or beyond its border; some missing (score 0)."""
    draw = torch.Generator().manual_seed(len(case))
    count = {"nobody": 0, "one": 1, "many": 5, "missing joints": 3, "cut by the border": 3}[case]
    bodies = torch.rand(count, 18, 3, generator=draw)
    if case == "cut by the border":
        bodies[..., :2] = bodies[..., :2] * 1.6 - 0.3
    bodies[..., :2] *= torch.tensor([width, height])
    bodies[..., 2] = 1
    if case == "missing joints":
        bodies[..., 2] = (torch.rand(count, 18, generator=draw) > 0.4).float()
    return list(bodies)


@pytest.mark.parametrize("case", ["nobody", "one", "many", "missing joints", "cut by the border"])
@pytest.mark.parametrize("size", [(512, 384), (61, 97)], ids=str)
def test_bodies_are_drawn_as_theirs(their_drawing, case, size):
    bodies = crowd(case, *size)
    points, people = np.zeros((0, 4)), -np.ones((len(bodies), 20))
    for person, body in zip(people, bodies, strict=True):
        for joint, (x, y, score) in enumerate(body.tolist()):
            if score > 0:
                person[joint] = len(points)
                points = np.vstack([points, [x, y, score, len(points)]])
    theirs = their_drawing[0](np.zeros((*size, 3), np.uint8), points, people)
    ours = draw_people([Person(body, torch.zeros(2, 21, 3)) for body in bodies], *size, 0)
    assert theirs.any() == (case != "nobody")
    assert np.array_equal(ours, theirs)


def test_hands_are_drawn_as_theirs(their_drawing):
    points = torch.randint(5, 120, (2, 21, 2), generator=torch.Generator().manual_seed(1))
    hands = torch.cat([points, torch.ones(2, 21, 1)], 2).float()
    theirs = their_drawing[1](np.zeros((128, 128, 3), np.uint8), points.numpy())
    ours = draw_people([Person(torch.zeros(18, 3), hands)], 128, 128, 0)
    assert np.array_equal(ours, theirs)
