"""Several folders in one set: what each is told, how often its pictures are seen, and what is said of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from scedit_core.errors import ConfigError, DataError
from scedit_core.fitting.identity import differences, settings_of
from training.bases.loading import load_base
from training.config_file import load_config, parse_config
from training.data.opening import open_data
from training.data.survey import survey
from training.places import check_places


def pictures(folder: Path, count: int, colour: int = 0, caption: str | None = "a picture", side: int = 160) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (side, side), (colour, 9 * i, 90)).save(folder / f"{i}.png")
        if caption is not None:
            (folder / f"{i}.txt").write_text(f"{caption} {i}")
    return folder


def told(values, *folders, **data) -> dict:
    return {**values, "data": {"folders": list(folders), "resolution": 64, **data}}


def test_each_folder_has_what_is_said_of_it(values, base_folder, tmp_path):
    cats = pictures(tmp_path / "cats", 3, 200, "cat")
    dogs = pictures(tmp_path / "dogs", 2, 100, None)
    animals = pictures(tmp_path / "animals", 4, 10, "an animal")
    masks = pictures(tmp_path / "masks", 3, 255, None)
    values = told(
        values,
        {"folder": str(cats), "repeats": 4, "caption": "zwx,", "masks": str(masks), "weight": 0.5},
        {"folder": str(dogs), "repeats": 3, "captions": "optional", "resolution": 128},
        {"folder": str(animals), "prior": True, "weight": 2.0},
        caption="photo of",
    )
    config = parse_config(values)
    found = survey(config)
    assert [e.name for e in found.own] == ["cats/0", "cats/1", "cats/2", "dogs/0", "dogs/1"]
    assert [e.caption for e in found.own] == ["zwx, cat 0", "zwx, cat 1", "zwx, cat 2", "photo of", "photo of"]
    assert [e.caption for e in found.prior] == [f"an animal {i}" for i in range(4)]
    assert [e.bucket for e in found.own] == [(64, 64)] * 3 + [(128, 128)] * 2
    assert [e.weight for e in (*found.own, *found.prior)] == [0.5] * 3 + [1.0] * 2 + [2.0] * 4
    assert [e.mask is not None for e in found.own] == [True] * 3 + [False] * 2
    mix = (
        "of each 100 rows, 54.5 are of cats (3 pictures, 4 times), 27.3 are of dogs (2 pictures, 3 times), 18.2 are of "
    )
    assert found.mix() == mix + "prior animals (4 pictures)"
    assert mix[:20] in "".join(map(str, found.all_remarks()))
    data = open_data(load_base(base_folder), config)
    seen = Counter(e.origin for step in range(330) for e in data.examples_of(step, 2))
    for origin, share in (("cats", 12), ("dogs", 6), ("animals", 4)):
        assert seen[origin] == pytest.approx(660 * share / 22, abs=6)
    batch = next(b for b in (data.batch(step, 2) for step in range(9)) if b.latents.shape[-1] == 8)
    assert batch.masks.shape == (2, 1, 8, 8)
    assert torch.isfinite(batch.latents).all()


def test_prior_folders_are_at_most_half(values, tmp_path):
    own, prior = pictures(tmp_path / "own", 2), pictures(tmp_path / "prior", 50, 7)
    found = survey(
        parse_config(told(values, {"folder": str(own), "repeats": 3}, {"folder": str(prior), "prior": True}))
    )
    assert found.rounds() == (9, 54)
    assert found.mix().startswith("of each 100 rows, 51.9 are of own (2 pictures, 27 times)")


def test_folder_names_of_sd_scripts_are_repeats_where_asked(values, tmp_path):
    root = tmp_path / "img"
    pictures(root / "10_zwx dog", 2, 10, None)
    pictures(root / "3_cat", 1, 20, "a cat")
    pictures(root / "0_unused", 1, 30)
    pictures(root, 1, 40)
    values["data"] = {"folder": str(root), "resolution": 64, "repeats_from_names": True}
    found = survey(parse_config(values))
    assert [(e.name, e.repeats, e.caption) for e in found.own] == [
        ("0", 1, "a picture 0"),
        ("10_zwx dog/0", 10, "zwx dog"),
        ("10_zwx dog/1", 10, "zwx dog"),
        ("3_cat/0", 3, "a cat 0"),
    ]
    assert "83.3 are of 10_zwx dog (2 pictures, 10 times), 12.5 are of 3_cat (1 pictures, 3 times)" in found.mix()
    assert any("named 0_..." in remark.what for remark in found.all_remarks())
    values["data"] |= {"repeats_from_names": False, "captions": "optional"}
    found = survey(parse_config(values))
    assert {e.repeats for e in found.own} == {1}
    assert [e.caption for e in found.own][2:4] == ["", ""]


@pytest.mark.parametrize("prior", [False, True])
def test_a_folder_that_occurs_twice_is_refused(values, tmp_path, prior):
    folder = pictures(tmp_path / "own", 2)
    (tmp_path / "link").symlink_to(folder)
    values = told(values, {"folder": str(folder)}, {"folder": str(tmp_path / "link"), "prior": prior})
    with pytest.raises(DataError, match=r"data\.folders\.1\.folder: expected each folder once, found .*link in data"):
        survey(parse_config(values))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"folder": "x"}, "expected a folder, folders or shards, found folder and folders"),
        ({"hints": "x"}, r"expected hints in each of data\.folders that has some, found data\.hints"),
        ({"folders": [{"folder": "x", "repeats": 0}]}, r"data\.folders\.0\.repeats"),
        (
            {"folders": [{"folder": "x", "colour": 1}]},
            r"data\.folders\.0\.colour: expected one of the keys folder, rep",
        ),
        ({"folders": [{"folder": "x", "wording": {"variants": 1}}]}, r"data\.folders\.0\.wording\.variants"),
    ],
)
def test_contradictions_are_one_sentence(values, change, expected):
    values["data"] = {"folders": [{"folder": "y"}], **change}
    with pytest.raises(ConfigError, match=expected):
        parse_config(values)


def test_hints_of_each_folder_and_pictures_that_share_a_name(control_values, tmp_path):
    a, b = pictures(tmp_path / "a", 2), pictures(tmp_path / "b", 2, 7)
    hints, h = pictures(tmp_path / "hints", 2, 100, None), pictures(tmp_path / "h", 2, 9, None)
    control_values["data"] = {
        "resolution": 64,
        "condition": {"type": "custom", "name": "lines"},
        "folders": [{"folder": str(a), "hints": str(hints)}, {"folder": str(b), "hints": str(h)}],
    }
    found = survey(parse_config(control_values))
    assert [e.hint.path.parent.name for e in found.own] == ["hints", "hints", "h", "h"]
    assert not found.problems
    control_values["data"]["folders"][1]["hints"] = str(hints)
    found = survey(parse_config(control_values))
    assert [e.name for e in found.own] == ["a/0", "a/1"]
    assert "expected a name that no picture of data.folders.0.folder has" in found.problems[0]
    del control_values["data"]["folders"][1]["hints"]
    with pytest.raises(ConfigError, match="expected a folder of hints for the condition custom"):
        parse_config(control_values)


def test_paths_start_at_the_file_and_are_no_part_of_what_a_run_is(values, tmp_path):
    pictures(tmp_path / "cats", 1)
    text = f"base: {values['base']}\noutput: out.safetensors\ntuner: {{kind: sc}}\ndata:\n  folders:\n"
    (tmp_path / "train.yaml").write_text(text + "    - folder: cats\n      masks: cats\n      repeats: 2\n")
    config = load_config(tmp_path / "train.yaml")
    assert config.data.folders[0].folder == tmp_path / "cats"
    entry = settings_of(config)["data"]["folders"][0]
    assert "folder" not in entry
    assert entry["repeats"] == 2
    earlier = settings_of(config)
    earlier["data"]["folders"] = [{"repeats": 3}]  # of a version that knew no other key
    assert differences(earlier, config) == ["data.folders.0.repeats (3 before, 2 now)"]
    with pytest.raises(ConfigError, match=r"where data\.folders\.0\.folder lies"):
        check_places(config.model_copy(update={"run": tmp_path / "cats"}))
