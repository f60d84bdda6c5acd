"""Pictures otherwise than as they are: masked by transparency, not enlarged, at several sizes, with other looks."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from training_runs import stop_after, train

from scedit_core import load_tuner
from scedit_core.conditions.trained import hint_maker
from scedit_core.errors import ConfigError
from scedit_core.pictures.framing import Crop, Framing, own_bucket
from scedit_core.pictures.looks import Look, look_of
from scedit_core.pictures.reading import to_tensor
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.cache import DamagedEntry
from training.data.encoding import Encoder
from training.data.opening import open_data
from training.data.survey import survey


@pytest.fixture(scope="module")
def base(base_folder):
    return load_base(base_folder)


def gradient(size, blue=0) -> Image.Image:
    """A picture whose red tells the place across and whose green tells the place down."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = [columns * 255 // (size[0] - 1), rows * 255 // (size[1] - 1), rows * 0 + blue]
    return Image.fromarray(np.stack(pixels, -1).astype(np.uint8))


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for i, size in enumerate([(256, 256), (256, 256), (150, 100), (70, 260)]):
        gradient(size, 40 * i).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    return folder


def config(values, folder, **data):
    values = {**values, "data": {**values["data"], "folder": str(folder), "resolution": 128, **data}}
    return parse_config(values)


def test_small_pictures_are_not_enlarged_where_asked(values, folder):
    found = survey(config(values, folder, upscale=False))
    assert [e.bucket for e in found.own] == [(128, 128), (128, 128), (128, 64), (64, 128)]
    assert all(e.framing.scale <= 1 for e in found.own)
    assert not [r for r in found.remarks if r.what.startswith("enlarged")]
    assert [e.bucket for e in survey(config(values, folder)).own][2:] == [(128, 128), (128, 128)]
    assert own_bucket((400, 90), True, 2.0) == (128, 64)
    assert own_bucket((400, 90), False) == (64, 64)
    found = survey(config(values, folder, min_size=80))
    assert [e.name for e in found.own] == ["0", "1", "2"]
    assert "3.png: expected at least 80 px on the shorter side, found 70x260" in found.problems[0]


def test_each_picture_is_trained_at_each_resolution(values, folder, base):
    told = config(values, folder, more_resolutions=[64], upscale=False)
    data = open_data(base, told)
    assert len(data.examples) == 4
    assert data.examples[0].sizes == ((128, 128), (64, 64))
    seen = Counter((e.name, e.bucket) for step in range(160) for e in data.examples_of(step, 2))
    assert len(seen) == 8
    for (name, _), count in seen.items():
        assert count == pytest.approx(320 / 8, abs=6), name
    assert {data.batch(step, 2).latents.shape[-1] for step in range(8)} >= {8, 16}


def test_transparency_is_a_mask_where_asked(values, tmp_path, base):
    folder = tmp_path / "cut"
    folder.mkdir()
    for i in range(2):
        image = gradient((128, 128), 90 * i).convert("RGBA")
        alpha = Image.new("L", image.size, 0)
        ImageDraw.Draw(alpha).rectangle((0, 0, 63, 127), fill=255)
        image.putalpha(alpha if i == 0 else 255)
        image.save(folder / f"{i}.png")
    told = config(values, folder, captions="none", transparency="mask")
    data = open_data(base, told)
    batch = data.batch_of(data.examples)
    assert batch.masks[0, 0, :, :8].eq(1).all()
    assert batch.masks[0, 0, :, 8:].eq(0).all()
    assert batch.masks[1].eq(1).all()
    assert any(r.what == "masked where it is transparent" for r in data.remarks)
    assert open_data(base, config(values, folder, captions="none")).batch_of(data.examples[:1]) is not None
    Image.new("RGBA", (128, 128), (9, 9, 9, 0)).save(folder / "2.png")
    data = open_data(base, told)
    assert "2.png: expected white where the loss counts" in data.problems[0]


def test_a_crop_is_the_same_part_of_a_picture_and_its_hint_and_is_told():
    framing = Framing((256, 128), (64, 64), Crop(0.5, 1.0, 0.0))
    assert framing.box((256, 128)) == (128, 0, 192, 64)
    assert framing.box((512, 256)) == (256, 0, 384, 128)
    assert framing.micro_conditions == (128, 256, 0, 128, 64, 64)
    seen = np.array(framing.apply(gradient((256, 128))), int)
    assert seen[32, 0, 0] == pytest.approx(128, abs=2)
    assert seen[32, 63, 0] == pytest.approx(192, abs=2)
    assert Framing((100, 100), (64, 64)).box((100, 100)) == Framing((100, 100), (64, 64), Crop(1, 0.3, 0.9)).box(
        (100, 100)
    )


def test_looks_keep_to_their_limits_and_are_the_same_each_time():
    looks = [look_of("abc", n, 0.8, 0.1, 0.2, 0.0) for n in range(200)]
    assert looks[0] is None
    assert looks == [look_of("abc", n, 0.8, 0.1, 0.2, 0.0) for n in range(200)]
    assert looks[1] != look_of("abd", 1, 0.8, 0.1, 0.2, 0.0)
    sides = [look.crop.side for look in looks[1:]]
    assert 0.8 <= min(sides) < 0.82
    assert 0.98 < max(sides) <= 1
    changes = {name: [dict(look.colours)[name] for look in looks[1:]] for name in ("brightness", "contrast")}
    assert 0.9 <= min(changes["brightness"]) < 0.91
    assert 1.19 < max(changes["contrast"]) <= 1.2
    assert "saturation" not in dict(looks[1].colours)
    turned = [look_of("abc", n, 0.8, 0.1, 0.2, 0.0, 0.1) for n in range(1, 200)]
    assert [look.colours[:2] for look in turned] == [look.colours for look in looks[1:]]  # the others stay
    assert -0.1 <= min(look.colours[2][1] for look in turned) < -0.095
    red = Image.new("RGB", (8, 8), (250, 10, 10))
    green = np.array(Look(None, (("hue", 1 / 3),)).recoloured(red))
    assert np.abs(green.astype(int) - (10, 250, 10)).max() <= 5


def test_folders_have_flips_and_looks_of_their_own(values, folder, tmp_path, base):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for i in range(4):
        gradient((256, 256), 200 + i).save(other / f"{i}.png")
    values["data"] |= {
        **{"resolution": 64, "flip": True, "looks": {"count": 3, "hue": 0.1}},
        "folders": [{"folder": str(folder)}, {"folder": str(other), "flip": False, "looks": False}],
    }
    del values["data"]["folder"]
    data = open_data(base, parse_config(values))
    seen = [e for step in range(60) for e in data.examples_of(step, 2)]
    changed = {e.origin: {x.look is not None for x in seen if x.origin == e.origin} for e in seen}
    assert changed == {"set": {True, False}, "other": {False}}
    with pytest.raises(DamagedEntry):  # nothing is encoded for what no step shows
        data._encoder.moments(next(e for e in data.examples if e.origin == "other"), True)
    ever = {"set": set(), "other": set()}
    for step in range(20):
        examples, draws = data.examples_of(step, 2), data.draws(step, 2, (4, 8, 8))
        latents = data.batch(step, 2).latents
        for row, e in enumerate(examples):
            mean, std = data._encoder.moments(e, e.origin == "set" and bool(draws.mirrored[row]))
            assert torch.equal(latents[row], mean + std * draws.noise[row])
            ever[e.origin].add(bool(draws.mirrored[row]))
    assert ever == {"set": {True, False}, "other": {True, False}}  # chance would have mirrored those as well


def test_hints_follow_crops_and_colours(control_values, folder, base, tmp_path):
    looks = {"count": 3, "crop": 0.6, "brightness": 0.5}
    told = config(control_values, folder, looks=looks, condition={"type": "color_palette", "cell": 16})
    data = open_data(base, told)
    encoder: Encoder = data._encoder
    make = hint_maker({"type": "color_palette", "cell": 16}, {}, "cpu", None, [tmp_path])
    for number in range(3):
        form = data.examples[0].looking(number)
        picture = form.framing.apply(gradient((256, 256)))
        picture = to_tensor(picture if form.look is None else form.look.recoloured(picture))
        expected = make(picture.permute(1, 2, 0)[None])[0].permute(2, 0, 1)
        assert (encoder.hint(form) - expected).abs().max() <= 0.5 / 255
    assert not torch.equal(encoder.hint(data.examples[0]), encoder.hint(data.examples[0].looking(1)))
    assert not torch.equal(*(encoder.moments(data.examples[0].looking(n), False)[0] for n in (0, 1)))
    drawn = Counter(e.look for step in range(300) for e in data.examples_of(step, 2) if e.name == "0")
    assert len(drawn) == 3
    assert drawn[None] == pytest.approx(sum(drawn.values()) / 3, abs=30)


def test_ready_hints_and_masks_are_cropped_as_their_picture(control_values, tmp_path, base):
    for name in ("set", "hints", "masks"):
        (tmp_path / name).mkdir()
        gradient((256, 256)).save(tmp_path / name / "0.png")
    data = {"captions": "none", "hints": str(tmp_path / "hints"), "masks": str(tmp_path / "masks")}
    data |= {"condition": {"type": "custom", "name": "places"}, "looks": {"count": 2, "crop": 0.5, "contrast": 0.5}}
    found = open_data(base, config(control_values, tmp_path / "set", **data))
    form = found.examples[0].looking(1)
    left, top, right, bottom = (side / 255 for side in form.framing.box((256, 256)))
    hint, mask = found._encoder.hint(form), found._encoder.mask(form)
    assert hint[0, 64, 0] == pytest.approx(left, abs=0.02)
    assert hint[0, 64, -1] == pytest.approx(right, abs=0.02)
    assert hint[1, 0, 64] == pytest.approx(top, abs=0.02)
    assert hint[1, -1, 64] == pytest.approx(bottom, abs=0.02)
    grey = 0.299 * (left + right) / 2 + 0.587 * (top + bottom) / 2
    assert mask.mean() == pytest.approx(grey, abs=0.03)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"looks": {"count": 4}}, "expected a crop below 1 or a change of colours, found neither"),
        ({"looks": {"crop": 0.1}}, r"data\.looks\.crop"),
        ({"looks": {"hue": 0.6}}, r"data\.looks\.hue"),
        ({"more_resolutions": [100]}, r"data\.more_resolutions"),
        ({"transparency": "black"}, r"data\.transparency"),
    ],
)
def test_what_cannot_be_is_one_sentence(values, folder, told, expected):
    with pytest.raises(ConfigError, match=expected):
        config(values, folder, **told)
    values["data"] = {"shards": "a.tar", "looks": {"crop": 0.5}}
    with pytest.raises(ConfigError, match="expected no looks beside shards"):
        parse_config(values)
    values["data"] = {"folders": [{"folder": "a", "looks": {"crop": 2}}]}
    with pytest.raises(ConfigError, match=r"data\.folders\.0\.looks\.crop: "):
        parse_config(values)


def test_a_run_with_all_of_it_resumes_to_the_same_bits(values, unwatched, folder, tmp_path, monkeypatch):
    gradient((256, 256)).convert("RGBA").save(folder / "0.png")
    values["data"] |= {
        "folders": [{"folder": str(folder), "repeats": 2, "caption": "zwx,"}],
        "wording": {"shuffle_tags": True, "drop_tags": 0.2, "wildcards": True, "lines": True},
        "looks": {"count": 3, "crop": 0.7, "saturation": 0.3},
        "more_resolutions": [64],
        "upscale": False,
        "transparency": "mask",
        "flip": True,
    }
    del values["data"]["folder"]
    for i in range(4):
        (folder / f"{i}.txt").write_text(f"a, b, {{red|blue}} {i}\nanother, one")
    values |= {"text": {"max_tokens": 150, "weights": True}}
    values["loop"] |= {"steps": 4, "batch": 2}
    whole = train({**values, "output": str(tmp_path / "whole" / "t.safetensors")})
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert train(values) is None
    (Path(values["output"]).with_suffix(".run") / "stop").unlink(missing_ok=True)
    resumed = load_tuner(train(values)).state_dict()
    for name, weight in load_tuner(whole).state_dict().items():
        assert torch.equal(weight, resumed[name]), name
