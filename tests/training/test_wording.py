"""Captions from step to step: several for a picture, wildcards, tags that move and drop, and where they are read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_runs import stop_after, train

from scedit_core import load_tuner
from scedit_core.errors import ConfigError, DataError
from scedit_core.pictures.captions import read_metadata
from scedit_core.pictures.wording import Captions, Wording
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.opening import open_data
from training.data.survey import check_survey, survey

TAGS = "zwx, red star, blue fish, big house, cat"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pictures without captions."""
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (64, 64), (80 * i, 10, 20)).save(folder / f"{i}.png")
    return folder


def with_data(values, folder, **data) -> dict:
    return {**values, "data": {"folder": str(folder), "resolution": 64, **data}}


def found(values, folder, **data):
    return survey(parse_config(with_data(values, folder, **data)))


def test_tags_move_and_drop_but_for_the_first():
    wording = Wording(shuffle_tags=True, keep_tags=1, drop_tags=0.25, variants=1000)
    texts = [wording.variant(TAGS, n) for n in range(1000)]
    tags = [wording.tags(text) for text in texts]
    assert all(each[0] == "zwx" for each in tags)
    counted = Counter(tag for each in tags for tag in each)
    assert set(counted) == set(wording.tags(TAGS))
    for tag in wording.tags(TAGS)[1:]:
        assert counted[tag] == pytest.approx(750, abs=50)  # 3.6 standard deviations
    first = Counter(each[1] for each in tags if len(each) == 5)
    assert len(first) == 4
    assert max(first.values()) < 1.5 * min(first.values())
    assert texts == [wording.variant(TAGS, n) for n in range(1000)]


def test_the_text_before_a_caption_stays_before_it():
    captions = Captions("by zwx,", ("a, b, c",), Wording(shuffle_tags=True))
    assert captions.plain == "by zwx, a, b, c"
    drawn = {captions.drawn(i / 100) for i in range(100)}
    assert len(drawn) > 2
    assert all(text.startswith("by zwx, ") and len(text) == 15 for text in drawn)
    assert drawn <= set(captions.all())


def test_wildcards_within_wildcards_and_braces_that_are_braces():
    wording = Wording(wildcards=True, variants=400)
    counted = Counter(wording.variant("a {red|blue {cat|dog}} \\{x\\}", n) for n in range(400))
    assert set(counted) == {"a red {x}", "a blue cat {x}", "a blue dog {x}"}
    assert counted["a red {x}"] == 200
    few = Wording(wildcards=True, variants=4)
    assert Counter(few.variant("a {red|blue} fish", n) for n in range(4)) == {"a red fish": 2, "a blue fish": 2}
    assert Captions("", ("a {red|blue}",), wording).plain == "a red"
    assert wording.variant("an {open brace", 3) == "an {open brace"
    assert Captions("", ("a {red|blue}",)).plain == "a {red|blue}"  # text, where nobody asked
    deep = "{" * 5000 + "x" + "}" * 5000
    assert "x" in wording.variant(deep, 0)


def test_each_of_several_captions_has_its_share():
    captions = Captions("", ("one", "two, 2", "three"), Wording(shuffle_tags=True))
    counted = Counter(captions.drawn(i / 3000).replace("2, two", "two, 2") for i in range(3000))
    assert counted == {"one": 1000, "two, 2": 1000, "three": 1000}


def test_captions_are_found_in_every_usual_place(values, folder):
    (folder / "0.TXT").write_text("capital letters")
    (folder / "1.caption").write_text("a caption")
    (folder / "metadata.csv").write_text('file_name,short,long\n2.png,"a, b",a long one\n1.png,not,read\n')
    data = found(values, folder, wording={"columns": ["long", "short"]})
    assert [e.caption for e in data.own] == ["capital letters", "a caption", "a long one"]
    assert sorted(data.own[2].texts()) == ["a long one", "a, b"]
    (folder / "0.txt").write_text("small letters\n\nof two lines")
    data = found(values, folder, wording={"columns": ["long"], "lines": True})
    assert data.own[0].texts() == {"small letters", "of two lines"}
    assert found(values, folder, wording={"columns": ["long"]}).own[0].caption == "small letters of two lines"


def test_tables_of_other_things_and_bad_lines_are_told(values, folder):
    for i in range(3):
        (folder / f"{i}.txt").write_text("x")
    (folder / "metadata.csv").write_text("file_name,prompt\n0.png,a\n")
    data = found(values, folder)
    assert not data.problems
    told = [remark for remark in data.all_remarks() if "columns file_name and text" in remark.what]
    assert "file_name, prompt" in next(iter(told[0].said))
    problems: list[str] = []
    path = folder / "metadata.jsonl"
    lines = [{"file_name": "0.png", "text": ["a", "b"]}, {"file_name": "1.png", "text": 7}, {"file_name": "9.png"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_metadata(path, problems) == {folder / "0.png": ("a", "b")}
    assert len(problems) == 2
    assert 'line 2: expected {"file_name": "a.png", "text": "a caption"}' in problems[0]
    csv = folder / "metadata.csv"
    csv.write_text('file_name,text\n0.png,"' + "x" * 200_000 + '"\n')  # longer than csv reads
    assert read_metadata(csv, problems) == {}
    assert len(problems) == 3


def test_captions_without_tags_are_refused(values, folder):
    for i in range(3):
        (folder / f"{i}.txt").write_text("a sentence")
    with pytest.raises(DataError, match=r"expected tags in captions for data\.wording\.shuffle_tags, found none; set"):
        found(values, folder, wording={"shuffle_tags": True})
    with pytest.raises(DataError, match="separator"):
        found(values, folder, wording={"drop_tags": 0.5, "separator": ";"})


@pytest.mark.parametrize("wrong", [{"drop_tags": 1}, {"keep_tags": -1}, {"columns": []}, {"variants": 1}, {"tags": 2}])
def test_wording_out_of_its_limits_is_refused(values, folder, wrong):
    with pytest.raises(ConfigError, match=r"data\.wording\."):
        found(values, folder, wording=wrong)


def test_a_step_shows_what_seed_and_step_say_from_the_cache_alone(values, folder, base_folder):
    for i in range(3):
        (folder / f"{i}.txt").write_text(f"picture {i}, {TAGS}\nanother {{red|blue}} caption of {i}")
    told = with_data(values, folder, wording={"lines": True, "shuffle_tags": True, "wildcards": True, "variants": 4})
    told["objective"] = {"caption_dropout": 0.0}
    base = load_base(base_folder)
    data = open_data(base, parse_config(told))
    seen = [[e.caption for e in data.examples_of(step, 2)] for step in range(200)]
    again = open_data(base, parse_config(told))
    base.encode_captions = None  # nothing is encoded in a step
    assert seen == [[e.caption for e in again.examples_of(step, 2)] for step in range(200)]
    batch = again.batch(7, 2)
    expected = again._encoder.texts(seen[7]).states
    assert torch.equal(batch.text.states, expected)
    drawn = Counter(text for step in seen for text in step)
    assert len(drawn) == 3 * (4 + 2)  # four orders of each line of tags, and both colours
    lines = Counter(text.startswith("another") for step in seen for text in step)
    assert lines[True] == pytest.approx(200, abs=40)
    other = {**told, "loop": {**told["loop"], "seed": 1}}
    others = open_data(load_base(base_folder), parse_config(other))
    assert [[e.caption for e in others.examples_of(step, 2)] for step in range(200)] != seen


def test_another_caption_among_several_is_another_picture(values, folder):
    for i in range(3):
        (folder / f"{i}.txt").write_text("a, b\nc")
    plain, several = found(values, folder), found(values, folder, wording={"lines": True})
    assert plain.own[0].words == "a, b c"
    assert several.own[0].words == ["", "a, b", "c"]
    check_survey(several, parse_config(with_data(values, folder)))


def test_a_run_with_worded_captions_resumes_to_the_same_bits(values, unwatched, folder, tmp_path, monkeypatch):
    for i in range(3):
        (folder / f"{i}.txt").write_text(f"picture {i}, {TAGS}\nof {{red|blue}} {i}")
    values |= with_data(values, folder, wording={"lines": True, "shuffle_tags": True, "drop_tags": 0.2})
    values["data"]["wording"]["wildcards"] = True
    values["loop"] |= {"steps": 4, "batch": 2}
    whole = train({**values, "output": str(tmp_path / "whole" / "t.safetensors")})
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert train(values) is None
    (Path(values["output"]).with_suffix(".run") / "stop").unlink(missing_ok=True)
    resumed = load_tuner(train(values)).state_dict()
    for name, weight in load_tuner(whole).state_dict().items():
        assert torch.equal(weight, resumed[name]), name
