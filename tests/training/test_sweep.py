"""Several tuners on one pass of the encoder: each is what it would be alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_runs import steps_kept

from scedit_core import CSCTuner, SCTuner, SkipLayout, load_tuner, save_tuner
from scedit_core.errors import ConfigError, TrainingError
from scedit_core.fitting import sweep
from scedit_core.fitting.event_log import EVENTS_FILE, read_events
from training.__main__ import main
from training.bases.loading import load_base
from training.check import run_check
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
    original, calls = sweep.passes_together, []

    def update(runs):
        calls.append(1)
        if len(calls) == 7:
            (parse_config(quiet).run_folder / "stop").touch()
        return original(runs)

    monkeypatch.setattr(sweep, "passes_together", update)
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


def a_rate_twice(values, tmp_path):
    return {"learning_rate": [1e-3, 1.0000001e-3]}, "sweep.learning_rate: expected values that differ, found 0.001 tw"


def kernels_of_a_style(values, tmp_path):
    return {"kernel": [1, 3]}, "sweep.kernel: expected none for a style"


def blocks_that_the_base_lacks(values, tmp_path):
    return {"blocks": [[0, 1], [99]]}, "tuner.blocks: expected numbers from 0 to "


def shapes_beside_a_file_that_has_one(values, tmp_path):
    values["tuner"]["start_from"] = str(save_tuner(SCTuner(SkipLayout((8,), (1,))), tmp_path / "old.safetensors"))
    return {"ratio": [0.5, 1.0]}, "sweep.ratio: expected none beside tuner.start_from"


def a_start_that_is_one_of_its_outputs(values, tmp_path):
    start = Path(values["output"]).with_name("tuner_learning_rate-0.0003.safetensors")
    start.parent.mkdir(parents=True)
    values["tuner"]["start_from"] = str(save_tuner(SCTuner(SkipLayout((8,), (1,))), start))
    return {"learning_rate": [1e-3, 3e-4]}, "output: expected a place that nothing is read from"


def anothers_file_at_one_of_its_outputs(values, tmp_path):
    Path(values["output"]).parent.mkdir(parents=True)
    Path(values["output"]).with_name("tuner_learning_rate-0.0003.safetensors").write_text("somebody's")
    return {"learning_rate": [1e-3, 3e-4]}, "output: expected a new name, or a tuner of this trainer"


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize(
    "spoil",
    [
        a_rate_twice,
        kernels_of_a_style,
        blocks_that_the_base_lacks,
        shapes_beside_a_file_that_has_one,
        a_start_that_is_one_of_its_outputs,
        anothers_file_at_one_of_its_outputs,
    ],
)
def test_check_and_train_refuse_a_sweep_before_anything_is_loaded(quiet, tmp_path, capsys, command, spoil):
    lists, sentence = spoil(quiet, tmp_path)
    (tmp_path / "run.yaml").write_text(json.dumps(quiet | {"sweep": lists}))
    assert main([command, str(tmp_path / "run.yaml")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not parse_config(quiet).run_folder.exists()


def test_the_plan_and_the_check_say_how_many_there_are(quiet, capsys):
    quiet |= {"sweep": {"learning_rate": [1e-3, 3e-4]}, "previews": {"every": 5}}
    quiet["loop"]["steps"] = 1
    run_check(parse_config(quiet))
    said = capsys.readouterr().out
    assert "sweep: both are of one tuner; 2 take more of both" in said
    assert "no previews are drawn in a sweep" in said
    train(parse_config(quiet))
    said = capsys.readouterr().out
    assert "a sweep of 2 tuners, in place of that: learning_rate 0.001; learning_rate 0.0003" in said
    assert "all of them are in " in said
    report = (parse_config(quiet).run_folder / "report.html").read_text()
    assert "a sweep of 2 tuners, which sweep.html beside this page compares" in report
    assert "parameters trained" not in report
    train(parse_config(quiet))
    assert "nothing to train: 1 steps are done" in capsys.readouterr().out


def test_a_sweep_resumes_by_itself_alone(quiet, tmp_path):
    with pytest.raises(ConfigError, match="--resume: expected auto or never for a sweep, found latest"):
        train(parse_config(quiet | {"sweep": SWEEP}), start="latest")


def notes(config) -> list[str]:
    return [e["message"] for e in read_events(config.run_folder / EVENTS_FILE) if e["event"] == "note"]


def test_a_run_that_was_no_sweep_is_put_aside_with_all_that_a_report_would_show_of_it(quiet):
    quiet |= {"validation": {**quiet["validation"], "every": 1}}
    quiet["loop"]["steps"] = 2
    config = parse_config(quiet)
    before = train(config).read_bytes()
    train(parse_config(quiet | {"sweep": {"learning_rate": [1e-3, 3e-4]}}))
    assert not [name for name in ("checkpoints", "best.safetensors", "previews") if (config.run_folder / name).exists()]
    kept = config.run_folder / "earlier" / "1"
    assert (kept / config.output.name).read_bytes() == before
    assert (kept / "checkpoints" / "step-000002").is_dir()
    assert (kept / "best.safetensors").is_file()
    assert "sweep:" in (config.run_folder / "config.yaml").read_text()


def test_lists_that_changed_are_told_and_cost_nothing_that_was_saved(quiet):
    quiet |= {"validation": {"every": 0}, "sweep": {"learning_rate": [1e-3, 3e-4]}}
    quiet["loop"]["steps"] = 2
    config = parse_config(quiet)
    train(config)
    assert not [note for note in notes(config) if "begin anew" in note]
    quiet["sweep"] = {"learning_rate": [1e-3, 1e-4]}
    before = config.output.with_name("tuner_learning_rate-0.001.safetensors").read_bytes()
    train(parse_config(quiet))
    (said,) = [note for note in notes(config) if "begin anew" in note]
    assert said.startswith("all tuners begin anew, since no checkpoint of one step is there for learning_rate 0.0001; ")
    kept = config.run_folder / "learning_rate-0.001" / "earlier" / "1"
    assert (kept / "tuner_learning_rate-0.001.safetensors").read_bytes() == before
    assert (kept / "checkpoints" / "step-000002").is_dir()


def test_an_update_is_told_while_the_next_is_on_its_way(quiet, monkeypatch):
    order = []
    apply, tell = sweep.apply_update, sweep.tell
    monkeypatch.setattr(sweep, "apply_update", lambda run, kept: (order.append(run.step + 1), apply(run, kept))[1])
    monkeypatch.setattr(sweep, "tell", lambda run, told: (order.append(f"told {told.step}"), tell(run, told))[1])
    quiet |= {"validation": {"every": 0}, "saving": {"every": 3}, "sweep": {"learning_rate": [1e-3, 3e-4]}}
    quiet["loop"]["steps"] = 5
    config = parse_config(quiet)
    train(config)
    assert order[::2] == order[1::2]  # both tuners
    assert order[::2] == [1, 2, "told 1", 3, "told 2", "told 3", 4, 5, "told 4", "told 5"]  # after 3 and 5 it is saved
    steps = [e["step"] for e in read_events(config.run_folder / EVENTS_FILE) if e["event"] == "step"]
    assert steps == [1, 2, 3, 4, 5]


def test_one_checkpoint_that_is_asked_for_is_one_of_all_and_a_torn_one_is_passed_over(quiet, monkeypatch):
    quiet |= {"validation": {"every": 0}, "saving": {"every": 2, "keep": 1}, "sweep": {"learning_rate": [1e-3, 3e-4]}}
    quiet["loop"]["steps"] = 5
    config = parse_config(quiet)
    folders = [config.run_folder / f"learning_rate-{rate}" for rate in ("0.001", "0.0003")]
    original, calls = sweep.passes_together, []

    def update(runs):
        calls.append(1)
        if len(calls) == 3:
            (config.run_folder / "save").touch()
        if len(calls) == 4:
            raise RuntimeError("a power cut")
        return original(runs)

    monkeypatch.setattr(sweep, "passes_together", update)
    with pytest.raises(RuntimeError, match="a power cut"):
        train(config)
    assert [steps_kept(folder) for folder in folders] == [[2, 3], [2, 3]]
    (folders[1] / "checkpoints" / "step-000003" / "state.pt").write_bytes(b"torn")
    assert train(config) is not None
    assert len(calls) == 4 + 3  # on from step 2


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
