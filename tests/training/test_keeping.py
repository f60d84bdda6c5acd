"""Nothing is lost: what exists stays until what replaces it is whole, whatever is asked for and whatever goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from training_runs import events, files_below, run_folder, steps_kept, stop_after, train

from scedit_core import TunerFileError, load_tuner, save_tuner
from scedit_core.errors import ConfigError, TrainingError
from scedit_core.fitting import loop as fitting
from scedit_core.fitting.checkpoints import checkpoints_in
from scedit_core.fitting.run_folder import open_run
from training import loop
from training.check import run_check
from training.config_file import load_config, parse_config


@pytest.fixture
def quiet(values) -> dict:
    """Four updates without previews, validation or TensorBoard; a checkpoint every two."""
    values["loop"] |= {"steps": 4, "learning_rate": 1e-3}
    values |= {"saving": {"every": 2, "keep": 2}, "tensorboard": False}
    values |= {"previews": {"every": 0}, "validation": {"every": 0}}
    return values


@pytest.fixture
def trained(quiet) -> dict:
    """A run that is finished, with a best tuner."""
    quiet["validation"] = {"every": 2, "images": 1, "timesteps": 1}
    train(quiet)
    return quiet


def whole(values: dict) -> dict[str, bytes]:
    """All files of a run and its tuner, without the log, which every start adds to."""
    kept = {
        name: data for name, data in files_below(run_folder(values)).items() if name not in ("events.jsonl", "lock")
    }
    return {**kept, "output": Path(values["output"]).read_bytes()}


@pytest.mark.parametrize("slip", ["base", "folder", "previews", "cache-only"])
def test_begin_anew_with_a_slip_changes_nothing(trained, tmp_path, slip):
    before = whole(trained)
    (tmp_path / "empty").mkdir()
    if slip == "cache-only":
        assert train(trained, start="never", cache_only=True) is None
    else:
        if slip == "base":
            trained["base"] = str(tmp_path / "bas")
        elif slip == "folder":
            trained["data"]["folder"] = str(tmp_path / "empty")
        else:  # the last that is looked at
            trained |= {"tuner": {"kind": "csc", "stem_width": 32}, "previews": {"hints": [str(tmp_path / "no.png")]}}
            trained["data"]["condition"] = {"type": "canny"}
        with pytest.raises((ConfigError, ValueError)):
            train(trained, start="never")
    after = whole(trained)
    assert {name for name in before if after.get(name) != before[name]} <= {"report.html"}


def test_begin_anew_puts_everything_aside(trained):
    before, folder = whole(trained), run_folder(trained)
    told = (folder / "events.jsonl").read_bytes()
    trained["validation"] = {"every": 0}
    trained["loop"]["steps"] = 2
    assert train(trained, start="never") is not None
    earlier = folder / "earlier" / "1"
    assert [f"kept in {earlier} " in e["message"] for e in events(trained, "note")] == [True]
    kept = files_below(earlier)
    assert kept.pop("events.jsonl") == told
    assert kept.pop("tuner.safetensors") == before.pop("output")
    assert kept == {name: data for name, data in before.items() if not name.startswith("cache/")}
    assert steps_kept(folder) == [2]
    assert not (folder / "best.safetensors").exists()  # it was of the earlier run
    assert [e["step"] for e in events(trained, "step")] == [1, 2]

    trained["loop"]["steps"] = 4
    train(trained, start=str(earlier))  # and back again
    first, again = load_file(earlier / "tuner.safetensors"), load_file(trained["output"])
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert steps_kept(folder) == [4]
    assert steps_kept(folder / "earlier" / "2") == [2]


def test_the_longest_of_the_earlier_runs_stay(quiet):
    folder = run_folder(quiet)
    for steps in (3, 2, 1, 1, 1):
        quiet["loop"]["steps"] = steps
        train(quiet, start="never")
    kept = {path.name: steps_kept(path)[-1] for path in (folder / "earlier").iterdir()}
    assert kept == {"1": 3, "2": 2, "4": 1}


def test_a_tuner_whose_run_is_gone_is_kept(quiet):
    first = Path(train(quiet)).read_bytes()
    shutil.rmtree(run_folder(quiet))
    quiet["loop"]["learning_rate"] = 5e-4
    assert Path(train(quiet)).read_bytes() != first
    assert (run_folder(quiet) / "earlier" / "1" / "tuner.safetensors").read_bytes() == first


def test_what_resume_understands(quiet, tmp_path):
    """A tuner's file, a run folder, its checkpoints, a file in one of them: each means a checkpoint."""
    output, folder = Path(train(quiet)), run_folder(quiet)
    quiet["loop"]["steps"] = 5
    expected = None
    newest = checkpoints_in(folder / "checkpoints")[-1]
    for wish in (output, folder, folder / "checkpoints", newest / "tuner.safetensors", newest):
        shutil.copytree(folder, tmp_path / "kept", dirs_exist_ok=False)
        train(quiet, start=str(wish))
        assert events(quiet, "plan")[-1]["first_step"] == 4, wish
        made = {name: weight.clone() for name, weight in load_file(output).items()}
        expected = expected or made
        assert all(torch.equal(made[name], expected[name]) for name in expected)
        shutil.rmtree(folder)
        shutil.move(tmp_path / "kept", folder)
        shutil.copyfile(newest / "tuner.safetensors", output)


def test_what_resume_cannot_go_on_from_is_told_with_a_way_that_keeps(quiet, tmp_path, base_folder):
    tuner = Path(train(quiet))
    stranger = load_tuner(tuner)
    with torch.no_grad():
        stranger.tuners["0"].up.weight.add_(1)
    save_tuner(stranger, tmp_path / "stranger.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    before = whole(quiet)
    for wish, sentence in (
        (tmp_path / "stranger.safetensors", "set tuner.start_from to it and output to another file"),
        (tmp_path / "empty", "found a folder without a whole checkpoint"),
        (tmp_path / "notes.txt", "found another file"),
        (tmp_path / "nowhere", f"the checkpoints of this run are in {run_folder(quiet) / 'checkpoints'}"),
    ):
        with pytest.raises(TrainingError) as refusal:
            train(quiet, start=str(wish))
        assert sentence in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert "never" not in str(refusal.value)
    assert whole(quiet) == before


def test_a_mean_asked_for_late_begins_at_the_trained_tuner(quiet):
    """No steps are left: what is delivered is what was trained, and not the tuner that the run began with."""
    train(quiet)
    good = load_file(quiet["output"])
    quiet["loop"]["ema"] = 0.9
    train(quiet, start=str(run_folder(quiet)))
    assert all(torch.equal(load_file(quiet["output"])[name], good[name]) for name in good)


def test_another_decay_is_taken_over(quiet, tmp_path):
    quiet["loop"]["ema"] = 0.5
    train(quiet)
    quiet["loop"] |= {"steps": 6, "ema": 0.999999}
    before = load_file(quiet["output"])
    folder = Path(shutil.copytree(run_folder(quiet), tmp_path / "copy.run"))
    made = {}
    for decay in (0.5, 1e-9):
        quiet["loop"]["ema"] = decay
        train(quiet, start=str(folder / "checkpoints" / "step-000004"))
        made[decay] = load_file(quiet["output"])
    raw = load_file(checkpoints_in(run_folder(quiet) / "checkpoints")[-1] / "tuner.safetensors")
    name = "tuners.0.up.weight"
    torch.testing.assert_close(made[1e-9][name], raw[name], atol=1e-7, rtol=0)  # no memory at all
    assert (made[0.5][name] - raw[name]).abs().max() > 1e-5
    assert not torch.equal(made[0.5][name], before[name])


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("base", "output: expected a place that nothing is read from, found .*, where base lies"),
        ("start", r"output: .* where tuner\.start_from lies"),
        ("link", r"output: .* where tuner\.start_from lies"),
        ("other", "output: expected a new name, or a tuner of this trainer to replace, found another kind of file"),
        ("best", "output: expected a place outside of what the run keeps"),
        ("run", "run: expected a place that nothing is read from, found .*, where data.folder lies"),
        ("cache", "data.cache: expected a place that nothing is read from, found .*hints, where data.hints lies"),
        ("previews", "run: .* where previews.hints lies"),
    ],
)
def test_an_output_is_no_input(control_values, tmp_path, tiny, pictures_folder, key, sentence):
    values, own = control_values, tmp_path / "own.safetensors"
    values["data"]["folder"] = str(shutil.copytree(pictures_folder, tmp_path / "pictures"))
    if key == "base":
        own.write_bytes(b"a checkpoint of 2 GB")
        values |= {"base": str(own), "output": str(own)}
    elif key in ("start", "link"):
        save_tuner(load_tuner("demo/canny.safetensors"), own)
        values["tuner"]["start_from"] = values["output"] = str(own)
        if key == "link":
            os.link(own, tmp_path / "link.safetensors")
            values["output"] = str(tmp_path / "link.safetensors")
    elif key == "other":
        own.write_bytes(b"a LoRA")
        values["output"] = str(own)
    elif key == "best":
        values["output"] = str(run_folder(values) / "best.safetensors")
        values["run"] = str(run_folder({**values, "output": str(tmp_path / "out" / "tuner.safetensors")}))
    elif key == "run":
        values["run"] = values["data"]["folder"]
    elif key == "cache":
        (tmp_path / "hints").mkdir()
        values["data"] |= {"cache": str(tmp_path), "hints": str(tmp_path / "hints")}
    else:
        values["previews"] = {"hints": [str(run_folder(values) / "previews" / "pictures" / "hint-0.jpg")]}
    before = files_below(tmp_path)
    for act in (train, lambda v: run_check(parse_config(v), Console(quiet=True))):
        with pytest.raises(ConfigError, match=sentence) as refusal:
            act(values)
        assert "\n" not in str(refusal.value)
    assert files_below(tmp_path) == before


def test_two_runs_cannot_deliver_one_file(quiet, tmp_path):
    with open_run(tmp_path / "elsewhere", Path(quiet["output"])):
        with pytest.raises(TrainingError, match="expected an output that no other run trains") as refusal:
            train(quiet)
        assert "\n" not in str(refusal.value)
    assert train(quiet) is not None


def test_a_tuner_that_is_no_good_replaces_nothing(quiet, monkeypatch):
    before = Path(train(quiet)).read_bytes()
    quiet["loop"]["steps"] = 5
    original = fitting.save_trained

    def save_trained(tuner, *arguments):
        with torch.no_grad():
            tuner.tuners["0"].up.weight.fill_(float("nan"))
        return original(tuner, *arguments)

    monkeypatch.setattr(fitting, "save_trained", save_trained)
    with pytest.raises(TunerFileError, match=r"tuner\.safetensors: expected finite weights, found NaN"):
        train(quiet)
    assert Path(quiet["output"]).read_bytes() == before
    assert [path.name for path in Path(quiet["output"]).parent.iterdir() if path.is_file()] == ["tuner.safetensors"]


@pytest.mark.parametrize("saved", [0, 2])
def test_a_checkpoint_folder_that_cannot_be_written_any_more(quiet, monkeypatch, saved):
    """As a full disk or a folder that became read-only does, a file in the place of the folder refuses the checkpoint,
    for every user."""
    folder = run_folder(quiet) / "checkpoints"
    original = fitting.update

    def update(run):
        if run.step == saved:
            if saved:
                folder.rename(folder.with_name("away"))
            folder.write_text("")
        return original(run)

    monkeypatch.setattr(fitting, "update", update)
    with pytest.raises(TrainingError, match="expected room and permission for a checkpoint") as refusal:
        train(quiet)
    monkeypatch.undo()
    folder.unlink()
    told = str(refusal.value)
    assert "\n" not in told
    if saved:
        folder.with_name("away").rename(folder)
    assert "then start again; step" in told
    step = 4 if saved else 2  # two later: the next that was to be saved
    kept = Path(told.partition("and --resume ")[2].removesuffix(" goes on from it"))
    assert train(quiet) is not None
    assert events(quiet, "plan")[-1]["first_step"] == saved
    train(quiet, start=str(kept))
    assert events(quiet, "plan")[-1]["first_step"] == step
    shutil.rmtree(kept.parent)


def test_the_best_tuner_is_not_worth_the_run(quiet, monkeypatch):
    quiet["validation"] = {"every": 2, "images": 1, "timesteps": 1}
    monkeypatch.setattr(fitting, "plan", lambda run: run.folder.best.mkdir() or {})  # cannot be replaced by a file
    assert train(quiet) is not None
    assert "best.safetensors: expected to write the file there" in events(quiet, "note")[-1]["message"]


def test_wishes_count_from_when_the_run_was_asked_for(quiet, tmp_path):
    folder = run_folder(quiet)
    folder.mkdir(parents=True)
    stop = folder / "stop"
    stop.touch()
    os.utime(stop, (1e9, 1e9))
    assert train(quiet) is not None  # left from before
    assert not stop.exists()
    stop.touch()
    quiet["loop"]["steps"] = 6
    assert train(quiet, since=stop.stat().st_mtime - 5) is None  # made while the libraries were loading
    assert [e["reason"] for e in events(quiet, "stopped")] == ["a stop file"]
    assert len(events(quiet, "plan")) == 1


def test_the_same_run_is_the_same_file_byte_for_byte(quiet, monkeypatch):
    whole = train(quiet).read_bytes()
    assert train(quiet).read_bytes() == whole
    stop_after(3, monkeypatch)
    assert train(quiet, start="never") is None
    monkeypatch.undo()
    assert train(quiet).read_bytes() == whole


@pytest.mark.parametrize("torn", [b"", b"torn", b"\x80\x02cnowhere\nnothing\n.", b"PK\x03\x04", bytes(4096)])
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(quiet, torn):
    train(quiet)
    (run_folder(quiet) / "checkpoints" / "step-000004" / "state.pt").write_bytes(torn)
    assert train(quiet) is not None
    assert events(quiet, "plan")[-1]["first_step"] == 2
    assert [e["message"] for e in events(quiet, "note") if "expected a whole checkpoint" in e["message"]]


def test_runs_of_one_process_all_hear_ctrl_c(tmp_path):
    """Several controls in one run: the first of them may be encoding for hours when it comes."""
    with open_run(tmp_path / "1") as one, open_run(tmp_path / "2") as other, open_run(tmp_path / "3") as third:
        signal.raise_signal(signal.SIGINT)
        assert [each.stop_wish() for each in (one, other, third)] == ["SIGINT"] * 3
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_stop_before_the_first_step_leaves_the_earlier_run_in_place(quiet, monkeypatch):
    train(quiet)
    before = whole(quiet)
    stop_at_loading = loop.prepare_unet

    def prepare_unet(*arguments):
        (run_folder(quiet) / "stop").touch()
        return stop_at_loading(*arguments)

    monkeypatch.setattr(loop, "prepare_unet", prepare_unet)
    assert train(quiet, start="never") is None
    after = whole(quiet)
    assert {name for name in before if after.get(name) != before[name]} <= {"report.html"}
    assert not (run_folder(quiet) / "earlier").exists()


def test_a_configuration_edited_meanwhile(quiet, tmp_path, monkeypatch):
    """The run keeps what it began with; the next start tells what has changed."""
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(quiet))
    original = fitting.update

    def update(run):
        file.write_text(json.dumps({**quiet, "loop": {**quiet["loop"], "learning_rate": 5e-4, "steps": 9}}))
        return original(run)

    monkeypatch.setattr(fitting, "update", update)
    loop.train(load_config(file), Console(quiet=True))
    assert load_config(run_folder(quiet) / "config.yaml").loop.learning_rate == 1e-3
    assert [e["steps"] for e in events(quiet, "plan")] == [4]
    with pytest.raises(ConfigError, match=r"loop\.learning_rate \(0\.001 before, 0\.0005 now\)"):
        loop.train(load_config(file), Console(quiet=True))


def test_what_was_trained_on_is_not_measured_as_unseen_when_pictures_are_added(quiet, tmp_path, monkeypatch):
    """20 pictures of which a00 and a12 are held out, then 30 of which a09 is too; then the same 30 again, when the
    checkpoint was no longer trained on that one."""
    measured, folder = [], tmp_path / "set"
    original = loop.train_to_end

    def watched(run, previews):
        held, own = {e.name for e in run.data.held}, {e.name for e in run.data.examples}
        measured.append((held, own, run.data.unseen))
        return original(run, previews)

    monkeypatch.setattr(loop, "train_to_end", watched)
    quiet["data"]["folder"], quiet["validation"] = str(folder), {"every": 0, "hold_out": 5, "images": 5}
    folder.mkdir()
    for steps, count in ((2, 20), (4, 30), (6, 30)):
        for i in range(count):
            Image.new("RGB", (64, 64), (4 * i, 200, 255 - 4 * i)).save(folder / f"a{i:02d}.png")
            (folder / f"a{i:02d}.txt").write_text("x")
        quiet["loop"]["steps"] = steps
        train(quiet)
    assert [(held, unseen) for held, _, unseen in measured] == [({"a00", "a12"}, True)] * 3
    assert ["a09" in own for _, own, _ in measured] == [True, False, False]
    told = [event["message"] for event in events(quiet, "note") if "trained on before" in event["message"]]
    assert len(told) == 2
