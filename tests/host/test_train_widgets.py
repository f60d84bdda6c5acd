"""The widgets of *Train SCEdit Tuner* as the trainer's configuration, and what makes the host run a node again."""

from __future__ import annotations

import importlib
import json
from types import ModuleType

import folder_paths
import pytest
import warm
import yaml
from conftest import PACK_NAME


@pytest.fixture(scope="module")
def config(pack) -> ModuleType:
    """The node's module that makes configurations."""
    return importlib.import_module(f"{PACK_NAME}.nodes.training.trainer_config")


def test_every_choice_is_a_configuration_that_the_trainer_takes(config, tmp_path):
    """Each kind with each preset through the trainer's own reader, and the list of keys that hold paths."""
    for kind in config.KINDS:
        for preset in config.PRESETS:
            values = config.from_widgets(
                base="/base.safetensors",
                folder="/pictures",
                kind=kind,
                preset=preset,
                steps=0,
                resolution=512,
                caption="",
                low_memory=preset == "fast",
                annotators="/annotators",
            )
            values |= {"output": "/out.safetensors", "run": "/run"}
            config.write(values, tmp_path / f"{kind}-{preset}.yaml")
    script = (
        "import json, pathlib, sys, typing\n"
        "from training.config import Section, TrainConfig\n"
        "from training.config_file import _sections_of, load_config\n"
        "def paths(section, prefix=''):\n"
        "    for name, field in section.model_fields.items():\n"
        "        inner = _sections_of(field.annotation)\n"
        "        if 'Path' in str(field.annotation) and not inner or name == 'shards':\n"
        "            yield prefix + name\n"
        "        for each in inner:\n"
        "            yield from paths(each, prefix + name + '.')\n"
        "read = {p.stem: load_config(p) for p in pathlib.Path(sys.argv[1]).glob('*.yaml')}\n"
        "kinds = {stem: [c.tuner.kind, c.data.condition and c.data.condition.type] for stem, c in read.items()}\n"
        "print(json.dumps([kinds, sorted(set(paths(TrainConfig)))]))\n"
    )
    done = warm.run_code(script, tmp_path)
    assert done.returncode == 0, done.stdout
    kinds, paths = json.loads(done.stdout)
    assert kinds == {
        f"{kind}-{preset}": ["sc", None] if kind == "style" else ["csc", kind]
        for kind in config.KINDS
        for preset in config.PRESETS
    }
    assert set(paths) - {"output", "run"} == set(config.PATHS)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"optimizer": "adamw8bit"}, {"steps": 7, "learning_rate": 5e-5, "batch": 4, "ema": 0.999}),
        ({"optimizer": "prodigy"}, {"steps": 7, "batch": 4, "ema": 0.999}),
        ({"optimizer": "schedulefree_adamw"}, {"steps": 7, "batch": 4}),
        ({"optimizer": "schedulefree_adamw", "ema": 0.5}, {"steps": 7, "batch": 4, "ema": 0.5}),
        ({"minutes": 30}, {"learning_rate": 5e-5, "batch": 4, "ema": 0.999, "minutes": 30}),
        ({"epochs": 3, "learning_rate": 1e-3}, {"learning_rate": 1e-3, "batch": 4, "ema": 0.999, "epochs": 3}),
    ],
)
def test_what_a_preset_means_for_another_optimiser_or_length_gives_way_to_the_file(config, said, expected):
    told = {"base": "/b", "folder": "/p", "kind": "style", "preset": "careful", "steps": 7, "resolution": 512}
    widgets = config.from_widgets(**told, caption="", low_memory=False, annotators=[])
    assert config.with_file(widgets, {"loop": said})["loop"] == {**said, **expected}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"weighting": "debiased"}, {"weighting": "debiased"}),
        ({"weighting": "equal"}, {"weighting": "equal", "min_snr_gamma": 5.0}),
        ({"noise_offset": 0.1}, {"noise_offset": 0.1, "min_snr_gamma": 5.0}),
        # both are the file's, which the trainer refuses by the names that are written there
        ({"weighting": "debiased", "min_snr_gamma": 1.0}, {"weighting": "debiased", "min_snr_gamma": 1.0}),
    ],
)
def test_a_presets_weighting_gives_way_to_the_files(config, said, expected):
    told = {"base": "/b", "folder": "/p", "kind": "style", "preset": "careful", "steps": 7, "resolution": 512}
    widgets = config.from_widgets(**told, caption="", low_memory=False, annotators=[])
    assert config.with_file(widgets, {"objective": said})["objective"] == expected


def test_a_file_wins_over_widgets_and_its_paths_start_beside_it(config, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "output: elsewhere.safetensors\nbase: models/base\ntuner: {kind: sc, ratio: 0.5}\n"
        "data: {shards: ['set-{000..003}.tar', 'https://example.org/x.tar'], resolution: 768}\n"
        "previews: {hints: [a.png, /b.png]}\n"
    )
    widgets = config.from_widgets(
        base="/widget.safetensors",
        folder="/pictures",
        kind="canny",
        preset="balanced",
        steps=7,
        resolution=512,
        caption="a word",
        low_memory=True,
        annotators="/annotators",
    )
    both = config.with_file(widgets | {"output": "/out.safetensors"}, config.from_file(str(tmp_path / "mine.yaml")))
    assert both["base"] == str(tmp_path / "models" / "base")
    assert both["output"] == "/out.safetensors"
    assert both["tuner"] == {"kind": "sc", "ratio": 0.5}
    assert both["data"]["shards"] == [str(tmp_path / "set-{000..003}.tar"), "https://example.org/x.tar"]
    assert both["data"]["resolution"] == 768
    assert both["data"]["caption"] == "a word"
    assert not {"folder", "condition"} & set(both["data"])
    assert both["previews"]["hints"] == [str(tmp_path / "a.png"), "/b.png"]
    assert both["loop"] == {"steps": 7, "learning_rate": 1e-4, "batch": 4}
    assert both["memory"]["checkpointing"]
    config.write(both, tmp_path / "run" / "config.yaml")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == both
    for text, sentence in (
        ("[1, 2]", "expected keys of the trainer"),
        ("a: [", "expected YAML in .*bad.yaml, found something else at line 1, column 5; correct that line"),
        ("secret: *hidden\n", "something else at line 1, column 9"),
        ("secret: word\n\thidden: 'more\n", "something else at line 2, column 1"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=sentence) as refusal:
            config.from_file(str(tmp_path / "bad.yaml"))
        assert not {"secret", "hidden", "word"} & set(str(refusal.value).split())
        assert refusal.value.__cause__ is None  # which a traceback would show
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="found something else at what is no text"):
        config.from_file(str(tmp_path / "bad.yaml"))
    (tmp_path / "passwords").write_text("base: hidden\n")
    with pytest.raises(ValueError, match=r"expected a file that ends in \.yaml or \.yml"):
        config.from_file(str(tmp_path / "passwords"))


def test_new_pictures_are_trained_on(pack, tmp_path):
    """The host asks whether inputs have changed since the last run."""
    fingerprint = pack.nodes["SCEditTrainTuner"].fingerprint_inputs
    before = fingerprint(folder=str(tmp_path), config_file="")
    assert fingerprint(folder=str(tmp_path), config_file="") == before
    (tmp_path / "one.png").touch()
    added = fingerprint(folder=str(tmp_path), config_file="")
    assert added != before
    (tmp_path / "one.png").write_text("more")
    assert fingerprint(folder=str(tmp_path), config_file="") != added


def test_what_only_the_configuration_file_names_is_looked_at(pack, tmp_path):
    fingerprint = pack.nodes["SCEditTrainTuner"].fingerprint_inputs
    for name in ("pictures", "hints", "tars"):
        (tmp_path / name).mkdir()
    file = tmp_path / "mine.yaml"
    file.write_text("data: {folder: pictures, hints: hints, shards: 'tars/set-{0..3}.tar'}\ntuner: {start_from: a}\n")
    seen = {fingerprint(config_file=str(file))}
    for new in ("pictures/one.png", "hints/one.png", "tars/set-0.tar", "a"):
        (tmp_path / new).touch()
        seen.add(fingerprint(config_file=str(file)))
    assert len(seen) == 5
    file.write_text("data: [")
    assert fingerprint(config_file=str(file)) not in seen


@pytest.mark.parametrize(("node", "key"), [("SCEditLoadSCTuner", "scedit"), ("SCEditLoadCSCTuner", "controlnet")])
def test_the_configuration_beside_a_released_tuner_is_looked_at(pack, tmp_path, monkeypatch, node, key):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([str(tmp_path)], {".bin"}))
    folder_paths.filename_list_cache.clear()
    (tmp_path / "pytorch_model.bin").touch()
    (tmp_path / "configuration.json").write_text("{}")
    fingerprint = pack.nodes[node].fingerprint_inputs
    before = fingerprint(tuner_name="pytorch_model.bin")
    assert before != "missing"
    (tmp_path / "configuration.json").write_text('{"SCALE": 2}')
    assert fingerprint(tuner_name="pytorch_model.bin") != before


@pytest.mark.parametrize("node", ["SCEditTrainTuner", "SCEditLoadSCTuner", "SCEditLoadCSCTuner"])
def test_what_comes_from_another_node_does_not_run_again(pack, node):
    """The host asks with None for it."""
    names = ("folder", "config_file") if node == "SCEditTrainTuner" else ("tuner_name",)
    found = [pack.nodes[node].fingerprint_inputs(**dict.fromkeys(names)) for _ in range(2)]
    assert found[0] == found[1] != ""
