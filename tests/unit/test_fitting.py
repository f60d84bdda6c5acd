"""Hints at another size: lines stay lines, maps keep their colours, depth stays smooth, nothing shows through alpha."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from scedit_core.conditions.canny import canny
from scedit_core.conditions.fitting import KINDS, Fitting, fit_hint, fitting_of, trained_fitting
from scedit_core.conditions.pictures import off_detour
from scedit_core.errors import ConditionError

RATIOS = (0.3, 0.37, 0.5, 0.99, 1.0, 1.01, 1.37, 2.0, 2.9, 3.0, 4.0)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def lines(side: int) -> torch.Tensor:
    """The canny edges [1,3,side,side] of a photograph at that size."""
    photograph = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_CUBIC)
    return canny(torch.from_numpy(photograph)[None].float() / 255).movedim(-1, 1)


def components(mask: torch.Tensor) -> int:
    return cv2.connectedComponents(mask.byte().numpy(), connectivity=8)[0] - 1


@pytest.mark.parametrize("times", [2, 3, 4])
def test_canny_lines_survive_shrinking(times):
    """All of their length, where the nearest pixel keeps a third of it; what hangs together stays together."""
    source = lines(512 * times)
    found = fit_hint(source, 512, 512, Fitting("lines"))
    assert found.unique().tolist() == [0, 1]
    drawn, edges = found[0, 0] > 0.5, source[0, 0] > 0.5
    grown = drawn.repeat_interleave(times, 0).repeat_interleave(times, 1)
    assert grown[edges].float().mean() >= 0.95
    assert components(drawn) <= components(edges)
    nearest = fit_hint(source, 512, 512, None)[0, 0] > 0.5
    assert nearest.repeat_interleave(times, 0).repeat_interleave(times, 1)[edges].float().mean() < 0.7


def test_a_line_of_one_pixel_stays_one():
    """In any direction, at odd ratios: without a gap, and one pixel thick, in a slanting line's stairs two."""
    for angle in range(0, 180, 15):
        canvas = np.zeros((701, 701), np.uint8)
        away = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))]) * 300
        cv2.line(canvas, *(tuple(int(v) for v in 350 + sign * away) for sign in (1, -1)), 255)
        hint = torch.from_numpy(canvas)[None, None].expand(1, 3, -1, -1)
        drawn = fit_hint(hint, 256, 256, Fitting("lines"))[0, 0] > 0.5
        assert components(drawn) == 1
        length = 600 * 256 / 701 * max(abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle))))
        assert drawn.sum() <= 2.05 * length


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_same_alone_in_a_batch_and_as_bytes(kind, ratio):
    hint = (noise(3, 3, round(72 * ratio), round(104 * ratio)) * 255).round() / 255
    found = fit_hint(hint, 72, 104, Fitting(kind))
    assert found.shape == (3, 3, 72, 104)
    assert torch.equal((found * 255).round() / 255, found)
    assert torch.equal(fit_hint(hint[1:2], 72, 104, Fitting(kind)), found[1:2])
    assert torch.equal(fit_hint((hint * 255).round().byte(), 72, 104, Fitting(kind)), found)
    assert torch.equal(fit_hint(hint.movedim(1, -1).contiguous().movedim(-1, 1), 72, 104, Fitting(kind)), found)
    if ratio == 1:
        assert torch.equal(found, hint)


@pytest.mark.parametrize("kind", ["lines", "flat"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_no_colour_is_mixed(kind, ratio):
    colours = torch.randint(0, 256, (8, 3), generator=torch.Generator().manual_seed(2))
    side = round(96 * ratio)
    places = torch.randint(0, 8, (side, side), generator=torch.Generator().manual_seed(3))
    hint = colours[places].movedim(-1, 0)[None].byte()
    found = (fit_hint(hint, 96, 96, Fitting(kind)) * 255).round()[0].movedim(0, -1).reshape(-1, 3)
    assert {tuple(c) for c in found.int().tolist()} <= {tuple(c) for c in colours.tolist()}


def test_depth_stays_smooth():
    """A ramp is a ramp at any size, as Pillow's bilinear filter has it."""
    ramp = torch.linspace(0, 1, 400).expand(1, 3, 400, 400)
    for side in (133, 100, 640):
        found = fit_hint(ramp, side, side, Fitting("smooth"))
        assert (found[0, 0, 0] - (torch.arange(side) + 0.5) / side).abs().max() < 1.5 / 255
        picture = Image.fromarray((ramp[0].movedim(0, -1) * 255).round().byte().numpy())
        expected = np.array(picture.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        assert torch.equal(found[0].movedim(0, -1), torch.from_numpy(expected))


@pytest.mark.parametrize(("nothing", "value"), [("black", 0.0), ("white", 1.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_transparency_is_the_conditions_nothing(kind, nothing, value):
    """White lines on nothing and black lines on nothing are lines on the paper of their condition."""
    hint = torch.full((1, 4, 60, 60), 1 - value)
    hint[:, 3] = 0
    hint[:, 3, 20:40] = 1
    found = fit_hint(hint, 20, 20, Fitting(kind, nothing))
    assert (found[:, :, 8:12] == 1 - value).all()
    assert (found[:, :, :5] == value).all()
    assert (found[:, :, 15:] == value).all()
    padded = fit_hint(hint, 20, 40, Fitting(kind, nothing), "pad")
    assert (padded[..., :9] == value).all()
    assert (padded[..., 31:] == value).all()
    assert torch.equal(padded[..., 10:30], found)
    half = torch.full((1, 4, 8, 8), 0.5)
    assert ((fit_hint(half, 8, 8, Fitting(kind, nothing)) - (0.25 + 0.5 * value)).abs() < 1 / 255).all()


def test_fittings_of_conditions():
    expected = {
        ("canny", ()): ("lines", "black"),
        ("pose", ()): ("lines", "black"),
        ("soft_edge", ()): ("lines", "white"),
        ("soft_edge", (("polarity", "light_on_dark"),)): ("lines", "black"),
        ("segmentation", ()): ("flat", "black"),
        ("color_palette", ()): ("flat", "white"),
        ("depth", ()): ("smooth", "black"),
        ("depth", (("invert", True),)): ("smooth", "white"),
        ("completion", ()): ("smooth", "black"),
        ("scribbles of mine", ()): ("smooth", "black"),
        ("scribbles of mine", (("fitting", "lines"), ("nothing", "white"))): ("lines", "white"),
    }
    for (name, options), (kind, nothing) in expected.items():
        assert fitting_of({"type": name, **dict(options)}) == Fitting(kind, nothing)


def test_fittings_of_files(one_sentence):
    """Files that say none have that of ComfyUI's ControlNets: the nearest pixel, alpha dropped, black around."""
    for old in ("", "canny", json.dumps({"type": "canny"}), "[1", '["canny"]', "3"):
        assert trained_fitting({"scedit.condition": old}) is None
    assert trained_fitting({}) is None
    said = json.dumps({"type": "depth", **Fitting("lines", "white").said()})
    assert trained_fitting({"scedit.condition": said}) == Fitting("lines", "white")
    with pytest.raises(ConditionError) as raised:
        trained_fitting({"scedit.condition": '{"type": "canny", "fitting": "newer"}'})
    one_sentence(raised, "'newer'")
    hint = noise(1, 4, 40, 100)
    cut = hint[:, :3, :, 30:70]
    assert torch.equal(
        fit_hint(hint, 16, 16, None), torch.nn.functional.interpolate(cut, (16, 16), mode="nearest-exact")
    )


def test_grey_pictures_that_were_decoded_through_16_bits():
    """All 256 values are exact again, as are the masks of their alpha; no other picture changes."""
    levels = torch.arange(256.0)
    decoded = (levels * 256 / 65535).expand(1, 3, 4, 256)
    assert torch.equal(off_detour(decoded), (levels / 255).expand(1, 3, 4, 256))
    for value in (1, 3, 129, 200, 255):
        assert off_detour(torch.full((1, 8, 8), value * 256 / 65535)).unique().item() == pytest.approx(
            value / 255, abs=1e-7
        )
    assert off_detour(1 - torch.full((1, 8, 8), 255 * 256 / 65535), inverted=True).abs().max() == 0
    assert off_detour(1 - torch.zeros(1, 8, 8), inverted=True).min() == 1
    for other in (
        levels / 255,
        (levels * 257) / 65535,
        noise(64, 64),
        torch.full((8, 8), 0.5),
        torch.full((8, 8), 0.25),
        torch.tensor([0.0, 1.0]),
        torch.tensor([0.0, 254 / 255]),
        torch.linspace(0, 1, 400),
    ):
        assert off_detour(other, inverted=True) is other


def test_what_is_refused(one_sentence):
    for hint, mode in (
        (noise(1, 5, 8, 8), "crop"),
        (noise(1, 3, 8, 8) * float("nan"), "crop"),
        (noise(1, 3, 8, 8), "x"),
    ):
        with pytest.raises(ConditionError) as raised:
            fit_hint(hint, 8, 8, Fitting("lines"), mode)
        one_sentence(raised)
