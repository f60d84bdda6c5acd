"""Ready hints on their way into a training: at any size, with transparency, and what is told of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_runs import events, run_folder, train

from scedit_core.conditions.fitting import Fitting, fit_hint, trained_fitting
from scedit_core.fitting.checkpoints import checkpoints_in
from scedit_core.fitting.tuner_file import condition_values
from scedit_core.pictures.framing import Framing
from scedit_core.pictures.reading import to_tensor
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data import encoding
from training.data.opening import open_data
from training.seeing.contact_sheet import Shown, _cell


@pytest.fixture(scope="module")
def base(base_folder):
    return load_base(base_folder)


@pytest.fixture
def prepared(control_values, base, tmp_path):
    """A function: the set of pictures of 128x128 with these hints, in a condition."""

    def prepare(hints, condition="canny", size=(128, 128), **more):
        for part in ("pictures", "hints"):
            (tmp_path / part).mkdir(exist_ok=True)
        for i, hint in enumerate(hints):
            Image.new("RGB", size, (40 * i, 90, 30)).save(tmp_path / "pictures" / f"{i}.png")
            hint.save(tmp_path / "hints" / f"{i}.png")
        control_values["data"] |= {"folder": str(tmp_path / "pictures"), "hints": str(tmp_path / "hints")}
        control_values["data"] |= {"resolution": 128, "captions": "none"}
        control_values["data"]["condition"] = {"type": condition, **more}
        return open_data(base, parse_config(control_values))

    return prepare


def drawn(size, paper, ink, mode="RGB"):
    """A cross of lines of one pixel."""
    image = Image.new(mode, (size, size), paper)
    pen = ImageDraw.Draw(image)
    pen.line([(0, 0), (size, size)], ink)
    pen.line([(size // 3, 0), (size // 3, size)], ink)
    return image


def hints_of(data):
    return [data.batch_of([example]).hints[0] for example in data.examples]


def test_white_lines_on_nothing_are_lines(prepared):
    clear = drawn(128, (255, 255, 255, 0), (255, 255, 255, 255), "RGBA")
    data = prepared([clear, drawn(128, "black", "white")])
    first, second = hints_of(data)
    assert torch.equal(first, second)
    assert 0.005 < first.mean() < 0.03
    (told,) = [remark for remark in data.remarks if "transparent" in remark.what]
    assert str(told) == "hints: put on black, since it is transparent: 1 (0.png)"


def test_dark_lines_on_nothing_are_on_paper(prepared):
    clear = drawn(128, (0, 0, 0, 0), (0, 0, 0, 255), "RGBA")
    first, second = hints_of(prepared([clear, drawn(128, "white", "black")], "soft_edge"))
    assert torch.equal(first, second)
    assert 0.97 < first.mean() < 0.995


@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_large_hint_keeps_its_lines(prepared, times):
    (hint,) = hints_of(prepared([drawn(128 * times, "black", "white")]))
    assert hint.unique().tolist() == [0, 1]
    assert (hint.amax(0).sum(1) >= 1).all()  # the slanting line is in every row


def test_a_map_of_eight_colours_has_eight(prepared, tmp_path):
    colours = torch.randint(0, 256, (8, 3), generator=torch.Generator().manual_seed(1)).byte()
    places = torch.randint(0, 8, (400, 400), generator=torch.Generator().manual_seed(2))
    image = Image.fromarray(colours[places].numpy())
    data = prepared([image], "segmentation")
    (hint,) = hints_of(data)
    assert len(hint.flatten(1).unique(dim=1).T) == 8
    cell = _cell(Shown(Image.new("RGB", (128, 128)), hint, None, "", "", Fitting("flat")), *fonts())
    shown = np.array(cell)[:192, 195 : 195 + 192].reshape(-1, 3)
    assert {tuple(c) for c in shown.tolist()} <= {tuple(c) for c in colours.tolist()}


def fonts():
    from PIL import ImageFont

    return ImageFont.load_default(size=14), ImageFont.load_default(size=12)


def test_a_hint_whose_sides_were_rounded_stays_on_its_picture(prepared):
    """1000x667 becomes 1024x704 in some annotators: stretched by 3 percent, which is taken back."""
    image = Image.new("RGB", (1024, 704), "black")
    pen = ImageDraw.Draw(image)
    for share in (0.2, 0.5, 0.8):
        pen.rectangle([1024 * share - 6, 0, 1024 * share + 6, 704], "white")
    framing = Framing((1000, 667), (128, 128))
    hint = framing.hint(image, Fitting("lines"))[0, 64]
    left, _, right, _ = framing.box((1000, 667))
    for share in (0.2, 0.5, 0.8):
        place = (1000 * share - left) / (right - left) * 128
        assert hint[int(place)] == 1, share


def test_own_proportions_count_where_sides_are_whole_only():
    """A small hint's sides are rounded to pixels; what nodes see, who know no picture, is what is trained on."""
    for ratio in (0.3, 0.37, 0.5, 1.01, 1.37, 2.9):
        size = (round(333 * ratio), round(501 * ratio))
        image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8))
        found = Framing((333, 501), (256, 384)).hint(image, Fitting("smooth"))
        assert torch.equal(found, fit_hint(to_tensor(image)[None], 384, 256, Fitting("smooth"))[0])


def test_hints_of_one_colour_are_told(prepared):
    clear = Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    grey = Image.new("RGB", (256, 256), (9, 80, 7))
    data = prepared([clear, drawn(128, "black", "white"), grey])
    (told,) = [remark for remark in data.remarks if "one colour" in remark.what]
    assert list(told.said.values()) == ["0.png", "2.png"]
    assert "make them anew" in told.advice


def test_other_fittings_are_other_entries_of_the_cache(prepared, base, monkeypatch):
    """Hints that were cached by an earlier version, or as another condition, are made again."""
    data = prepared([drawn(300, "black", "white")])
    example = data.examples[0]
    lines = data._encoder._hint_key(example)
    old = encoding.cache_key(
        example.hint.digest, example.hint.size, example.size, example.bucket, 2
    )  # a filter's number
    keys = {lines, old}
    for condition, more in (("depth", {}), ("segmentation", {}), ("soft_edge", {}), ("depth", {"invert": True})):
        keys.add(prepared([drawn(300, "black", "white")], condition, **more)._encoder._hint_key(example))
    assert len(keys) == 6


def test_metadata_say_the_fitting(control_values):
    for condition, expected in (
        ({"type": "soft_edge", "polarity": "light_on_dark"}, Fitting("lines", "black")),
        ({"type": "custom", "name": "canny"}, Fitting("lines", "black")),
        ({"type": "custom", "name": "mine"}, Fitting("smooth", "black")),
        ({"type": "custom", "name": "mine", "fitting": "flat", "nothing": "white"}, Fitting("flat", "white")),
    ):
        control_values["data"] |= {"condition": condition, "hints": "hints"}
        said = condition_values(parse_config(control_values).data.condition)
        assert said["type"] == condition.get("name", condition["type"])
        assert trained_fitting({"scedit.condition": json.dumps(said)}) == expected


def test_a_run_of_an_older_version_is_told_that_hints_are_fitted_otherwise_now(prepared, control_values, unwatched):
    """Its checkpoints do not say a fitting.  One of this version's says nothing."""
    prepared([drawn(300, "black", "white") for _ in range(3)])

    def notes() -> int:
        control_values["loop"]["steps"] += 1
        train(control_values)
        return sum("which blurred ready-made hints" in note["message"] for note in events(control_values, "note"))

    train(control_values)
    assert notes() == 0
    older = checkpoints_in(run_folder(control_values) / "checkpoints")[-1] / "tuner.safetensors"
    said = {"scedit.condition": json.dumps({"type": "canny", "low": 100, "high": 200})}
    with safe_open(older, "pt") as file:
        metadata = file.metadata() | said
    save_file(load_file(older), older, metadata)
    assert notes() == 1
    assert notes() == 1
