"""The configuration: what it refuses, and that each refusal is one sentence that names the key."""

from __future__ import annotations

import json

import pytest

from scedit_core.errors import ConfigError, SCEditError
from training.config_file import load_config, parse_config


def test_valid_values_pass(values):
    config = parse_config(values)
    assert config.loop.learning_rate == 1e-4
    assert config.tuner.ratio == 1.0


def test_controls_that_learn_from_pictures_see_high_timesteps_more_often(control_values):
    def sampling(**change) -> str:
        return parse_config({**control_values, **change}).objective.timestep_sampling

    assert sampling() == sampling(objective={"caption_dropout": 0.3}) == "high"
    assert sampling(objective={"timestep_sampling": "uniform"}) == "uniform"
    assert sampling(teacher={"controlnet": "control.safetensors"}) == "uniform"
    style = {**control_values["data"], "condition": None}
    assert sampling(tuner={"kind": "sc"}, data=style) == "uniform"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bass": "x"}, ["bass", "unknown key", "base, prediction"]),
        ({"loop": {"stepz": 3}}, ["loop.stepz", "unknown key", "learning_rate"]),
        ({"loop": {"steps": 0}}, ["loop.steps", "greater than or equal to 1", "0"]),
        ({"tuner": {}}, ["tuner.kind", "found none"]),
        ({"tuner": {"kind": "lora"}}, ["tuner.kind", "'sc' or 'csc'", "lora"]),
        ({"tuner": {"kind": "csc"}}, ["data.condition for kind csc"]),
        ({"output": "tuner.bin"}, [".safetensors", "tuner.bin"]),
        ({"previews": {"hints": ["a.png"]}}, ["no previews.hints for kind sc", "remove them"]),
        ({"data": {"folder": "x", "resolution": 100}}, ["data.resolution", "multiple of 64"]),
        ({"data": {"folder": "x", "condition": {"type": "canny", "lo": 1}}}, ["condition.lo", "low"]),
        (
            {"data": {"folder": "x", "condition": {"name": "canny"}}},
            ["condition.type", "one of canny, soft_edge, depth"],
        ),
        (
            {"data": {"folder": "x", "condition": {"type": "edges"}}},
            ["condition.type", "one of canny, soft_edge, depth"],
        ),
    ],
)
def test_wrong_values_are_named(values, change, words):
    with pytest.raises(ConfigError) as caught:
        parse_config({**values, **change}, "run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_relative_paths_start_at_the_file(values, tmp_path):
    path = tmp_path / "run.yaml"
    for annotators, expected in (("one", ["one"]), (["one", "two"], ["one", "two"])):
        values["data"] |= {"folder": "pictures", "annotators": annotators}
        path.write_text(json.dumps(values))
        data = load_config(path).data
        assert data.folder == tmp_path / "pictures"
        assert data.annotators == [tmp_path / name for name in expected]


@pytest.mark.parametrize("text", ["base: [", "just words", "\x00", "- 1\n- 2"])
def test_no_yaml_mapping(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="expected"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "base: a\ndata:\n  folder: x\nloop: {steps: 3}\ndata:\n  resolution: 64\n",
            "found data in line 2 and in line 5",
        ),
        ("loop:\n  steps: 1\n  batch: 2\n  steps: 3\n", "found steps in line 2 and in line 4"),
        ("data: {condition: {type: canny, low: 1, low: 2}}\n", "found low in line 1 and in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text, words):
    """YAML itself takes the last section whole, and drops the first without a word."""
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(SCEditError, match=words) as raised:
        load_config(path)
    assert str(raised.value).startswith(f"{path}: expected each key once")


def test_anchors_and_merges_of_yaml_stay(tmp_path, values):
    path = tmp_path / "merged.yaml"
    written = json.dumps({key: value for key, value in values.items() if key != "loop"})[1:-1]
    path.write_text("{" + written + ", loop: {<<: {steps: 9, batch: 2}, batch: 3}}")
    config = load_config(path)
    assert (config.loop.steps, config.loop.batch) == (9, 3)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="check the path"):
        load_config(tmp_path / "none.yaml")


def test_a_tilde_is_the_home_folder(values, tmp_path, monkeypatch):
    """In every key that holds a path, whether alone, in a list, or in a pattern of shards."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    values |= {"base": "~/base", "output": "~/out.safetensors", "validation": {"folder": "~/held"}}
    values["data"] = {"shards": ["~/a-{0..3}.tar", "b.tar"], "annotators": ["~/annotators", "here"]}
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    config = load_config(tmp_path / "run.yaml")
    home = tmp_path / "home"
    assert (config.base, config.output, config.validation.folder) == (
        home / "base",
        home / "out.safetensors",
        home / "held",
    )
    assert config.data.shards == [str(home / "a-{0..3}.tar"), str(tmp_path / "b.tar")]
    assert config.data.annotators == [home / "annotators", tmp_path / "here"]
    assert config.run_folder == home / "out.run"
