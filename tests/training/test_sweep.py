"""Several tuners on one pass of the encoder: each is what it would be alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scedit_core import CSCTuner, SCTuner, SkipLayout, load_tuner, save_tuner
from scedit_core.fitting import sweep
from scedit_core.fitting.errors import ConfigError, TrainingError
from scedit_core.fitting.event_log import EVENTS_FILE, read_events
from training.bases.loading import load_base
from training.config_file import parse_config
from training.loop import train

SWEEP = {"learning_rate": [1e-3, 3e-4], "ratio": [0.5, 2.0]}


@pytest.fixture
def quiet(values) -> dict:
    values["loop"] |= {"steps": 20, "batch": 2, "learning_rate": 1e-3}
    return values | {"previews": {"every": 0}, "validation": {"every": 10, "images": 2, "timesteps": 2}}


def alone(values: dict, folder: Path, rate: float, ratio: float) -> SCTuner | CSCTuner:
    loop = values["loop"] | {"learning_rate": rate}
    tuner = values["tuner"] | {"ratio": ratio}
    config = values | {"loop": loop, "tuner": tuner, "output": str(folder / f"alone-{rate}-{ratio}.safetensors")}
    return load_tuner(train(parse_config(config)))


def distance(one, other) -> float:
    """Relative L2 between the weights of two tuners."""
    found, expected = (torch.cat([p.flatten().double() for p in t.state_dict().values()]) for t in (one, other))
    return float((found - expected).norm() / expected.norm())


def test_each_tuner_equals_the_one_trained_alone(quiet, tmp_path):
    best = train(parse_config(quiet | {"sweep": SWEEP}))
    run = parse_config(quiet).run_folder
    result = json.loads((run / "sweep.json").read_text())
    rows = {row["label"]: row for row in result["tuners"]}
    assert len(rows) == 4
    for rate in SWEEP["learning_rate"]:
        for ratio in SWEEP["ratio"]:
            found = load_tuner(rows[f"learning_rate {rate:g}, ratio {ratio:g}"]["file"])
            assert distance(found, alone(quiet, tmp_path, rate, ratio)) < 1e-4
    assert result["best"] == min(rows, key=lambda label: rows[label]["loss"])
    assert Path(rows[result["best"]]["file"]).read_bytes() == best.read_bytes()
    assert result["best"] in (run / "sweep.html").read_text()


def test_a_stopped_sweep_resumes_to_the_same_tuners(quiet, monkeypatch):
    quiet["sweep"] = {"learning_rate": [1e-3, 3e-4]}
    whole = parse_config(quiet | {"output": quiet["output"].replace(".safe", "_whole.safe")})
    train(whole)
    original, calls = sweep.update_together, []

    def update(runs):
        calls.append(1)
        if len(calls) == 7:
            (parse_config(quiet).run_folder / "stop").touch()
        return original(runs)

    monkeypatch.setattr(sweep, "update_together", update)
    assert train(parse_config(quiet)) is None
    assert train(parse_config(quiet)) is not None
    assert len(calls) == 20
    for config in (parse_config(quiet), whole):
        assert (config.run_folder / "sweep.json").is_file()
    tuners = [
        [load_tuner(row["file"]) for row in json.loads((c.run_folder / "sweep.json").read_text())["tuners"]]
        for c in (parse_config(quiet), whole)
    ]
    assert [distance(*pair) for pair in zip(*tuners, strict=True)] == [0, 0]


def test_the_best_is_named_by_the_weights_in_its_file(quiet):
    """By the last measurement, not the lowest; a finished sweep that is started again says the same."""
    quiet |= {"sweep": {"learning_rate": [1e-3, 0.1]}, "validation": {**quiet["validation"], "every": 1}}
    quiet["loop"]["steps"] = 6
    config = parse_config(quiet)
    earlier = save_tuner(SCTuner(SkipLayout((8,), (1,))), config.output).read_bytes()
    best = train(config)
    result = json.loads((config.run_folder / "sweep.json").read_text())
    for row in result["tuners"]:
        folder = config.run_folder / row["label"].replace(" ", "-")
        measured = [e["loss_with"] for e in read_events(folder / EVENTS_FILE) if e["event"] == "validation"]
        assert (len(measured), row["loss"]) == (6, measured[-1])
    kept = config.run_folder.glob(f"earlier/*/{config.output.name}")
    assert [file.read_bytes() for file in kept] == [earlier]
    before = load_tuner(best)
    train(config)
    assert json.loads((config.run_folder / "sweep.json").read_text()) == result
    assert distance(load_tuner(best), before) == 0


def test_without_measurements_a_finished_sweep_keeps_its_losses(quiet):
    quiet |= {"sweep": {"learning_rate": [1e-6, 1e-3]}, "validation": {"every": 0}}
    quiet["loop"]["steps"] = 3
    config = parse_config(quiet)
    before = load_tuner(train(config))
    result = json.loads((config.run_folder / "sweep.json").read_text())
    assert all(row["loss"] > 0 for row in result["tuners"])
    assert distance(load_tuner(train(config)), before) == 0
    assert json.loads((config.run_folder / "sweep.json").read_text()) == result


def test_a_tuner_that_diverges_is_put_aside_and_stays_there(quiet):
    """The others are what they would be without it, also after a stop; only all of them together end the sweep."""
    quiet |= {"sweep": {"learning_rate": [1e-3, 1e30]}, "validation": {"every": 0}, "saving": {"every": 2}}
    quiet["loop"]["steps"] = 6
    config = parse_config(quiet)
    best = train(config)
    result = json.loads((config.run_folder / "sweep.json").read_text())
    sound, lost = result["tuners"]
    assert result["best"] == sound["label"] == "learning_rate 0.001"
    assert (lost["file"], lost["loss"]) == (None, None)
    assert "expected a finite" in lost["failed"]
    assert lost["steps"] < 3
    assert not config.output.with_name("tuner_learning_rate-1e+30.safetensors").exists()
    assert "expected a finite" in (config.run_folder / "sweep.html").read_text()
    notes = [e["message"] for e in read_events(config.run_folder / EVENTS_FILE) if e["event"] == "note"]
    assert any(note.startswith("learning_rate 1e+30 is put aside") for note in notes)
    alone = train(
        parse_config(
            quiet | {"sweep": {"learning_rate": [1e-3]}, "output": quiet["output"].replace(".safe", "_alone.safe")}
        )
    )
    assert distance(load_tuner(best), load_tuner(alone)) < 1e-4
    quiet["loop"]["steps"] = 8
    train(parse_config(quiet))
    again = json.loads((config.run_folder / "sweep.json").read_text())["tuners"]
    assert [row["steps"] for row in again] == [8, lost["steps"]]
    with pytest.raises(TrainingError, match="expected a finite"):
        train(parse_config(quiet | {"sweep": {"learning_rate": [1e30]}}), start="never")


@pytest.mark.parametrize(
    ("lists", "found"),
    [({}, "none"), ({"learning_rate": [1e-3] * 17}, "17 tuners"), ({"seed": [1, 2]}, "seed")],
)
def test_sweeps_that_cannot_be_are_refused(quiet, lists, found):
    with pytest.raises(ConfigError, match=f"sweep: expected lists for .*, found {found}"):
        sweep.variants(parse_config(quiet), lists)


@pytest.mark.parametrize("kind", ["sc", "csc"])
def test_apart_is_one_by_one(base_folder, kind):
    """Predictions and gradients of three tuners, each on a copy of the batch."""
    base = load_base(base_folder)
    torch.manual_seed(0)
    make = SCTuner if kind == "sc" else CSCTuner
    tuners = [make(base.layout, ratio=ratio, **({} if kind == "sc" else {"stem_width": 32})) for ratio in (0.5, 1, 2)]
    for tuner in tuners:
        for p in tuner.parameters():
            torch.nn.init.normal_(p, std=0.05)
    noisy, times = torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    text = base.encode_captions(["a red star", "a blue house"])
    hints = torch.rand(2, 3, 64, 64) if kind == "csc" else None
    together = base.predict(noisy, times, text, None, [(t, 1.0, hints) for t in tuners], apart=True)
    together.square().mean(dim=(1, 2, 3)).sum().backward()
    found = [[p.grad.clone() for p in t.parameters() if p.grad is not None] for t in tuners]
    for tuner, said, grads in zip(tuners, together.chunk(3), found, strict=True):
        tuner.zero_grad()
        by_itself = base.predict(noisy, times, text, None, [(tuner, 1.0, hints)])
        torch.testing.assert_close(said, by_itself, rtol=1e-5, atol=1e-5)
        by_itself.square().mean(dim=(1, 2, 3)).sum().backward()
        expected = [p.grad for p in tuner.parameters() if p.grad is not None]
        assert max(float((a - b).norm() / b.norm()) for a, b in zip(grads, expected, strict=True)) < 1e-4
