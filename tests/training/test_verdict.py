"""What a report's first sentence says, on numbers, and on what is trained and measured for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import ImageChops
from rich.console import Console

from scedit_core import load_tuner
from scedit_core.fitting.event_log import read_events
from scedit_core.fitting.validation import Validation, standard_error
from scedit_core.fitting.verdict import follows, parting, sentences, verdict
from scedit_core.pictures.reading import read_picture, to_picture, to_tensor
from training.bases.loading import load_base
from training.config_file import parse_config
from training.data.hint_making import Hints
from training.data.opening import open_data
from training.demo.pictures import write_pictures
from training.loop import train

PACK = Path(__file__).resolve().parents[2]
DEMO, CHINESE = PACK / "demo", PACK / "locales" / "zh" / "main.json"


def measured(step, held, trained=None, base=0.1, **more):
    own = {} if trained is None else {"loss_trained": trained, "loss_trained_without": base}
    return {"step": step, "loss_with": held, "loss_without": base, "unseen": True, **own, **more}


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"loss_with": 0.09}, "The tuner lowers the validation loss by 10.0 %."),
        ({"loss_with": 0.11}, "The tuner raises the validation loss by 10.0 %."),
        (
            {"loss_trained": 0.1, "loss_trained_without": 0.2},
            "has not seen, and lowers it by 50.0 %",
        ),
        ({"loss_with": 0.02, "unseen": False}, "on pictures that it is trained on, which says little about new ones"),
        (
            {"loss_other_hint": 0.0925, "gap": 0.0025, "gap_error": 0.001},
            "2.50 % with a standard error of 1.00 %: it",
        ),
        ({"loss_other_hint": 0.0915, "gap": 0.0015, "gap_error": 0.001}, "it does not follow its hint yet"),
        ({"loss_other_hint": 0.08, "gap": -0.01, "gap_error": 0.001}, "it does not follow its hint yet"),
        ({"loss_no_hint": 0.2}, "Whether it follows its hint cannot be told"),  # a log from before
        ({"loss_with": 0.0, "loss_without": 0.0}, "by 0.0 %"),
    ],
)
def test_sentences(numbers, words):
    assert words in verdict([{"step": 1, "loss_with": 0.09, "loss_without": 0.1, **numbers}])


PARTED = [measured(i + 1, *pair) for i, pair in enumerate([(0.09, 0.09), (0.08, 0.07), (0.09, 0.04)])]


@pytest.mark.parametrize(
    ("history", "keys", "figures"),
    [
        ([measured(1, 0.09)], ["unseen"], {"whole": "-10.0 %"}),
        ([measured(1, 0.11) | {"unseen": False}], ["seen"], {"whole": "+10.0 %"}),
        ([measured(1, 0.09, 0.08)], ["both"], {"whole": "-10.0 %", "own": "-20.0 %"}),
        (
            PARTED,
            ["by_heart"],
            {"step": "2", "others": "-20.0 %", "before": "-30.0 %", "whole": "-10.0 %", "own": "-60.0 %"},
        ),
        (
            [measured(1, 0.09, loss_other_hint=0.0925, gap=0.0025, gap_error=0.001)],
            ["unseen", "hint_followed"],
            {"whole": "-10.0 %", "other": "-7.5 %", "gap": "2.50 %", "error": "1.00 %"},
        ),
        (
            [measured(1, 0.09, loss_other_hint=0.0915, gap=0.0015, gap_error=0.001)],
            ["unseen", "hint_not_followed"],
            {"whole": "-10.0 %", "other": "-8.5 %", "gap": "1.50 %", "error": "1.00 %"},
        ),
        ([measured(1, 0.09, loss_no_hint=0.2)], ["unseen", "hint_unknown"], {"whole": "-10.0 %"}),
        (
            [measured(1, 0.09, loss_teacher=0.08, agreement=0.9)],
            ["unseen", "teacher"],
            {"whole": "-20.0 %", "share": "90 %"},
        ),
    ],
)
def test_the_page_has_every_sentence_in_chinese_with_its_figures(history, keys, figures):
    said = sentences(history)
    assert [sentence.key for sentence in said] == keys
    assert {name: value for sentence in said for name, value in sentence.values.items()} == figures
    chinese = json.loads(CHINESE.read_text("utf-8"))["scedit"]["training"]
    for sentence in said:
        text = chinese[f"verdict_{sentence.key}"]
        assert set(re.findall(r"\{(\w+)\}", text)) == set(sentence.values)
    assert verdict(history) == " ".join(sentence.english for sentence in said)


@pytest.mark.parametrize(
    ("held", "trained", "step"),
    [
        ([0.09, 0.08, 0.07, 0.065], [0.09, 0.08, 0.07, 0.06], None),  # both fall
        ([0.09, 0.08, 0.085, 0.09], [0.09, 0.07, 0.06, 0.04], 2),  # one rises
        ([0.09, 0.08, 0.0795, 0.08], [0.09, 0.07, 0.06, 0.04], 2),  # one stays
        ([0.09, 0.0801, 0.0800, 0.0799], [0.09, 0.080, 0.079, 0.078], None),  # both have come to rest
        ([0.09, 0.08, 0.09, 0.10], [0.09, 0.10, 0.11, 0.12], None),  # both rise: a rate too high, nothing by heart
        ([0.09], [0.09], None),
    ],
)
def test_the_step_where_own_pictures_and_others_part(held, trained, step):
    history = [measured(i + 1, *pair) for i, pair in enumerate(zip(held, trained, strict=True))]
    at = parting(history)
    assert (at and at["step"]) == step
    said = verdict(history)
    assert said.startswith(f"From step {step} on") == (step is not None)


def test_the_standard_error_takes_pictures_that_agree_with_themselves_for_one():
    torch.manual_seed(0)
    noise = torch.randn(50, 4, dtype=torch.float64)
    assert standard_error(noise) == pytest.approx(1 / 200**0.5, rel=0.15)
    same = torch.randn(50, 1, dtype=torch.float64).expand(50, 4)
    assert standard_error(same) == pytest.approx(same[:, 0].std().item() / 50**0.5)
    assert standard_error(noise[:1, :1]) is None


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Scenes to train on and others to measure, and the canny edges of each, dark on light."""
    root = tmp_path_factory.mktemp("scenes")
    write_pictures(root / "set", 24, seed=41, style="plain")
    write_pictures(root / "held", 8, seed=42, style="plain")
    for path in list((root / "held").iterdir()):
        path.rename(path.with_name(f"held-{path.name}"))
    data = {"folder": root, "resolution": 128, "condition": {"type": "canny"}}
    config = parse_config({"base": "b", "output": "o.safetensors", "tuner": {"kind": "csc"}, "data": data})
    makes, files = Hints(config.data), sorted(root.glob("*/*.png"))
    edges = [ImageChops.invert(to_picture(makes.make(to_tensor(read_picture(p, p))))) for p in files]
    (root / "hints").mkdir()
    for path, image in zip(files, edges, strict=True):
        image.save(root / "hints" / path.name)
    return root


def test_a_control_of_shuffled_hints_is_told_that_it_does_not_follow(pictures, tmp_path):
    """Each picture with the edges of the next; the hints of what is measured are their own."""
    own = sorted(p.name for p in (pictures / "set").glob("*.png"))
    (tmp_path / "hints").mkdir()
    for path in (pictures / "hints").iterdir():
        name = own[own.index(path.name) - 1] if path.name in own else path.name
        (tmp_path / "hints" / name).write_bytes(path.read_bytes())
    values = {
        "base": str(DEMO),
        "output": str(tmp_path / "shuffled.safetensors"),
        "tuner": {"kind": "csc"},
        "data": {
            "folder": str(pictures / "set"),
            "hints": str(tmp_path / "hints"),
            "condition": {"type": "custom", "name": "dark edges"},
            "resolution": 128,
        },
        "loop": {"steps": 200, "batch": 4, "learning_rate": 1e-3},
        "validation": {"every": 100, "images": 8, "timesteps": 4, "folder": str(pictures / "held")},
        "previews": {"every": 0},
        "tensorboard": False,
    }
    config = parse_config(values)
    train(config, Console(quiet=True))
    history = [e for e in read_events(config.run_folder / "events.jsonl") if e["event"] == "validation"]
    assert history[-1]["pairs"] == 32
    assert follows(history[-1]) is False, history[-1]
    assert "it does not follow its hint yet" in verdict(history)
    assert "does not follow its hint yet" in (config.run_folder / "report.html").read_text("utf-8")


def test_the_control_of_the_demo_is_told_that_it_follows(pictures, tmp_path):
    values = {
        "base": str(DEMO),
        "output": str(tmp_path / "canny.safetensors"),
        "tuner": {"kind": "csc"},
        "data": {"folder": str(pictures / "held"), "resolution": 128, "condition": {"type": "canny"}},
        "validation": {"images": 8, "timesteps": 4},
    }
    config, base = parse_config(values), load_base(DEMO)
    data = open_data(base, config)
    found = Validation(config, base, data).measure(load_tuner(DEMO / "canny.safetensors").float())
    assert found["gap"] > 5 * found["gap_error"] > 0, found
    assert "it follows its hint." in verdict([{"step": 1, **found}])


def test_a_style_that_learns_its_pictures_by_heart_is_told_from_which_step(tmp_path):
    """Three pictures, and far too many updates of them."""
    write_pictures(tmp_path / "set", 3, seed=43, style="lantern")
    write_pictures(tmp_path / "held", 6, seed=44, style="lantern")
    values = {
        "base": str(DEMO),
        "output": str(tmp_path / "style.safetensors"),
        "tuner": {"kind": "sc", "ratio": 4.0},
        "data": {"folder": str(tmp_path / "set"), "resolution": 128},
        "loop": {"steps": 160, "batch": 4, "learning_rate": 2e-3, "schedule": "constant"},
        "validation": {"every": 20, "images": 6, "timesteps": 4, "folder": str(tmp_path / "held")},
        "previews": {"every": 0},
        "tensorboard": False,
    }
    config = parse_config(values)
    train(config, Console(quiet=True))
    history = [e for e in read_events(config.run_folder / "events.jsonl") if e["event"] == "validation"]
    step = parting(history)["step"]
    losses = [(e["step"], round(e["loss_with"], 4), round(e["loss_trained"], 4)) for e in history]
    assert 20 <= step < 160, losses
    said = verdict(history)
    assert said.startswith(f"From step {step} on the tuner learns its own pictures by heart")
    assert said in (config.run_folder / "report.html").read_text("utf-8")
