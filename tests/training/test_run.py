"""What a run keeps and what ends it: checkpoints, wishes, locks, a full disk, numbers that are no numbers."""

from __future__ import annotations

import math
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from training_runs import events, run_folder, steps_kept, stop_after, train

from scedit_core import CSCTuner, load_tuner, save_tuner
from scedit_core.diffusers import attach
from scedit_core.errors import ConfigError, TrainingError
from scedit_core.files import read_tuner
from scedit_core.fitting import loop as fitting
from scedit_core.fitting.checkpoints import checkpoints_in
from scedit_core.fitting.validation import Validation
from training import loop
from training.bases.loading import load_base


@pytest.fixture
def quiet(values) -> dict:
    """Six updates without previews, validation or TensorBoard; a checkpoint every two."""
    values["loop"] |= {"steps": 6, "learning_rate": 1e-3}
    values |= {"saving": {"every": 2, "keep": 2}, "tensorboard": False}
    values |= {"previews": {"every": 0}, "validation": {"every": 0}}
    return values


def test_the_last_checkpoints_are_kept(quiet):
    path = train(quiet)
    assert steps_kept(run_folder(quiet)) == [4, 6]
    assert [e["step"] for e in events(quiet, "saved")] == [2, 4, 6]
    assert [e["path"] for e in events(quiet, "finished")] == [str(path)]
    last = checkpoints_in(run_folder(quiet) / "checkpoints")[-1]
    for (name, a), (_, b) in zip(
        load_tuner(last / "tuner.safetensors").state_dict().items(), load_tuner(path).state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert load_tuner(last / "tuner.safetensors").metadata["scedit.prediction"] == "v_prediction"


def test_more_steps_go_on_where_the_run_ended(quiet):
    train(quiet)
    quiet["loop"]["steps"] = 8
    train(quiet)
    assert [e["first_step"] for e in events(quiet, "plan")] == [0, 6]
    assert [e["step"] for e in events(quiet, "step")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_other_settings_do_not_go_on(quiet):
    train(quiet)
    quiet["loop"]["learning_rate"] = 5e-4
    quiet["tuner"]["ratio"] = 0.5
    with pytest.raises(ConfigError, match=r"loop.learning_rate \(0.001 before, 0.0005 now\).*tuner.ratio") as caught:
        train(quiet)
    assert "--resume never" in str(caught.value)
    assert events(quiet, "error")[-1]["message"] == str(caught.value)
    train(quiet, start="never")
    assert [e["first_step"] for e in events(quiet, "plan")] == [0]


def test_a_named_checkpoint_is_taken_whatever_its_settings(quiet):
    train(quiet)
    path = checkpoints_in(run_folder(quiet) / "checkpoints")[0]
    quiet["loop"] |= {"learning_rate": 5e-4, "schedule": "constant"}
    train(quiet, start=str(path))
    assert events(quiet, "plan")[-1]["first_step"] == 4
    assert [e["learning_rate"] for e in events(quiet, "step")[-2:]] == [5e-4, 5e-4]


def test_a_checkpoint_of_another_optimiser_is_refused(quiet):
    train(quiet)
    path = checkpoints_in(run_folder(quiet) / "checkpoints")[0]
    state = torch.load(path / "state.pt", weights_only=True)
    state["config"]["loop"]["optimizer"] = "prodigy"
    torch.save(state, path / "state.pt")
    with pytest.raises(TrainingError, match=r"this tuner and optimiser, found another \(prodigy\)"):
        train(quiet, start=str(path))


def test_going_back_sets_later_checkpoints_aside(quiet, monkeypatch):
    train(quiet)
    folder = run_folder(quiet) / "checkpoints"
    stop_after(5, monkeypatch)
    assert train(quiet, start=str(folder / "step-000004")) is None
    assert steps_kept(run_folder(quiet)) == [4, 5]
    earlier = run_folder(quiet) / "earlier" / "1"
    assert [path.name for path in (earlier / "checkpoints").iterdir()] == ["step-000006"]
    assert f"step-000006 moved to {earlier}" in events(quiet, "note")[-1]["message"]
    monkeypatch.undo()
    assert train(quiet) is not None
    assert events(quiet, "plan")[-1]["first_step"] == 5
    train(quiet, start=str(earlier))
    assert steps_kept(run_folder(quiet)) == [6]
    assert steps_kept(run_folder(quiet) / "earlier" / "2") == [5, 6]


def test_a_checkpoint_from_elsewhere_is_kept_here_when_the_run_stops(quiet, tmp_path, monkeypatch):
    train(quiet)
    elsewhere = run_folder(quiet) / "checkpoints" / "step-000004"
    quiet["output"] = str(tmp_path / "other.safetensors")
    monkeypatch.setattr(fitting, "plan", lambda run: (run.folder.path / "stop").touch() or {})
    monkeypatch.setattr(fitting, "update", lambda run: fitting.Told(4, 0.0, fitting.Arriving(torch.zeros(2))))
    assert train(quiet, start=str(elsewhere)) is None
    assert steps_kept(run_folder(quiet)) == [4]


def test_when_all_are_damaged_the_run_begins_anew_and_keeps_what_it_saves(quiet, monkeypatch):
    train(quiet)
    for path in checkpoints_in(run_folder(quiet) / "checkpoints"):
        (path / "state.pt").write_bytes(b"cut short")
    stop_after(3, monkeypatch)
    assert train(quiet) is None
    assert steps_kept(run_folder(quiet)) == [2, 3]


def test_what_a_killed_save_has_left_is_written_over(quiet):
    left = run_folder(quiet) / "checkpoints" / f"step-000002.part-{os.getpid()}"
    left.mkdir(parents=True)
    (left / "state.pt").write_bytes(b"cut short")
    assert train(quiet) is not None


def test_other_pictures_after_the_last_step_are_not_passed_over(quiet, tmp_path):
    own = Path(shutil.copytree(quiet["data"]["folder"], tmp_path / "own"))
    quiet["data"]["folder"] = str(own)
    train(quiet)
    assert train(quiet) is not None  # the same pictures: the same tuner once more
    assert "nothing to train: 6 steps are done" in events(quiet, "note")[-1]["message"]
    next(own.glob("*.txt")).write_text("another caption")
    with pytest.raises(ConfigError, match="expected the pictures and captions that this run was trained on"):
        train(quiet)
    quiet["loop"]["steps"] = 7
    assert train(quiet) is not None
    assert events(quiet, "plan")[-1]["first_step"] == 6


def test_latest_insists_on_a_checkpoint(quiet):
    with pytest.raises(TrainingError, match="expected a checkpoint to resume from, found none"):
        train(quiet, start="latest")


def test_a_broken_checkpoint_is_passed_over(quiet):
    whole = load_file(train(quiet))
    newest = checkpoints_in(run_folder(quiet) / "checkpoints")[-1]
    state = newest / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    Path(quiet["output"]).unlink()
    found = load_file(train(quiet))
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert "expected a whole checkpoint" in events(quiet, "note")[-2]["message"]
    assert events(quiet, "plan")[-1]["first_step"] == 4


@pytest.mark.parametrize("wish", ["stop", "save"])
def test_files_that_ask_to_stop_or_save(quiet, wish, monkeypatch):
    original = fitting.update

    def update(run):
        done = original(run)
        if run.step == 3:
            (run.folder.path / wish).touch()
        return done

    monkeypatch.setattr(fitting, "update", update)
    path = train(quiet)
    assert not (run_folder(quiet) / wish).exists()
    if wish == "save":
        assert path is not None
        assert [e["step"] for e in events(quiet, "saved")] == [2, 3, 4, 6]
        return
    assert path is None
    assert steps_kept(run_folder(quiet)) == [2, 3]
    assert events(quiet, "stopped")[-1]["reason"] == "a stop file"
    assert train(quiet) is not None
    assert events(quiet, "plan")[-1]["first_step"] == 3


def test_a_stop_file_while_encoding(quiet, monkeypatch):
    original = loop.load_base

    def load_base(*args, **options):
        (run_folder(quiet) / "stop").touch()
        return original(*args, **options)

    monkeypatch.setattr(loop, "load_base", load_base)
    assert train(quiet) is None
    assert events(quiet, "stopped")
    assert not events(quiet, "plan")


def test_cache_only_trains_nothing(quiet):
    assert train(quiet, cache_only=True) is None
    assert events(quiet, "caching")
    assert not events(quiet, "step")
    assert not Path(quiet["output"]).exists()


def test_two_runs_cannot_share_a_folder(quiet):
    folder = run_folder(quiet)
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"), pytest.raises(TrainingError, match="that no other run uses, found it locked"):
        train(quiet)
    assert train(quiet) is not None  # a lock file without a holder is no lock


def test_nan_stops_with_the_last_good_state_kept(quiet, monkeypatch):
    original = fitting.loss_of
    calls = []

    def loss_of(*args):
        calls.append(1)
        return original(*args) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(fitting, "loss_of", loss_of)
    with pytest.raises(TrainingError, match="step 4: expected a finite loss, found nan"):
        train(quiet)
    assert steps_kept(run_folder(quiet)) == [2]
    monkeypatch.undo()
    assert train(quiet, start="latest") is not None


def test_infinite_gradients_stop_too(quiet, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(TrainingError, match="step 1: expected a finite gradient, found inf"):
        train(quiet)


def test_a_full_disk_keeps_the_last_good_state(quiet, monkeypatch):
    original = fitting.update
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def update(run):
        if run.step == 3:  # from now on files end at 20 kB, as on a disk that is full
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        return original(run)

    monkeypatch.setattr(fitting, "update", update)
    try:
        with pytest.raises(TrainingError, match="expected room and permission for a checkpoint"):
            train(quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in (run_folder(quiet) / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    assert train(quiet, start="latest") is not None


def test_ema_is_what_is_delivered(quiet):
    quiet["loop"]["ema"] = 0.9
    path = train(quiet)
    last = checkpoints_in(run_folder(quiet) / "checkpoints")[-1]
    delivered, mean, raw = (load_tuner(p) for p in (path, last / "ema.safetensors", last / "tuner.safetensors"))
    name = "tuners.0.up.weight"
    assert torch.equal(delivered.state_dict()[name], mean.state_dict()[name])
    assert not torch.equal(raw.state_dict()[name], mean.state_dict()[name])
    assert mean.state_dict()[name].abs().max() < raw.state_dict()[name].abs().max()


def test_a_run_begins_with_a_given_tuner(quiet, tmp_path):
    first = train(quiet)
    begun = tmp_path / "begun.safetensors"
    shutil.copyfile(first, begun)
    quiet["output"] = str(tmp_path / "second.safetensors")
    quiet["tuner"]["start_from"] = str(begun)
    quiet["loop"] |= {"steps": 1, "learning_rate": 1e-12}
    a, b = load_tuner(begun).state_dict(), load_tuner(train(quiet)).state_dict()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-7, rtol=0)


def test_a_control_that_is_gone_on_with_keeps_its_strength(quiet, tmp_path):
    """A file may say that strength 1 means half of what its weights make: trained and saved as such."""
    base = load_base(quiet["base"])
    begun = CSCTuner(base.layout, stem_width=32, metadata={"scedit.scale": "0.5"})
    for p in begun.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    save_tuner(begun, tmp_path / "begun.safetensors", begun.metadata)
    quiet["tuner"] = {"kind": "csc", "start_from": str(tmp_path / "begun.safetensors")}
    quiet["data"]["condition"] = {"type": "canny"}
    quiet["loop"] |= {"steps": 2, "learning_rate": 1e-12, "ema": 0.9}
    quiet["saving"] = {"every": 1}
    made = load_tuner(train(quiet))
    assert made.scale == 0.5
    inputs = base.unet_inputs(base.encode_captions(["a star"]), None)
    latents, hint = torch.ones(1, 4, 8, 8), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = base.unet(latents, 500, **inputs).sample
        before, after = [], []
        for tuner, seen in ((begun, before), (made, after)):
            with attach(base.unet, [(tuner, 1.0, hint)]):
                seen.append(base.unet(latents, 500, **inputs).sample)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    assert (before[0] - plain).abs().max() > 1e-2
    state = checkpoints_in(run_folder(quiet) / "checkpoints")[0]
    assert {load_tuner(state / name).scale for name in ("tuner.safetensors", "ema.safetensors")} == {0.5}


def test_a_given_tuner_of_another_kind_is_refused(quiet, tmp_path):
    style = train(quiet)
    quiet["tuner"] = {"kind": "csc", "start_from": str(style)}
    quiet["data"]["condition"] = {"type": "canny"}
    quiet["output"] = str(tmp_path / "control.safetensors")
    with pytest.raises(ConfigError, match=r"tuner\.start_from: .*expected a tuner of kind csc, found sc"):
        train(quiet)


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_an_optimiser_whose_package_is_missing(quiet, monkeypatch, name, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setitem(__import__("sys").modules, f"{package}.optim", None)
    quiet["loop"]["optimizer"] = name
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        train(quiet)


@pytest.mark.parametrize("option", ["checkpointing", "frozen_convolutions"])
def test_savings_of_memory_do_not_change_a_bit(quiet, option, tmp_path):
    made = []
    for on in (False, True):
        quiet["memory"] = {"frozen_convolutions": False, option: on}
        quiet["output"] = str(tmp_path / f"{on}.safetensors")
        made.append(load_tuner(train(quiet)).state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_a_validation_that_overflows_is_noted_and_left_out(values, monkeypatch):
    """Report, panel and terminal get figures alone, and the best tuner is the best of those that were measured."""
    values["loop"] |= {"steps": 4}
    values |= {"previews": {"every": 0}, "validation": {"every": 1, "first": True, "images": 1, "timesteps": 1}}
    measure, losses = Validation.measure, iter([math.nan, math.nan, 0.5, math.inf, 0.4])
    monkeypatch.setattr(Validation, "measure", lambda *given: {**measure(*given), "loss_with": next(losses)})
    assert train(values) is not None
    assert [(e["step"], e["loss_with"]) for e in events(values, "validation")] == [(2, 0.5), (4, 0.4)]
    noted = [e["message"] for e in events(values, "note") if "no validation loss" in e["message"]]
    assert [note.partition(":")[0] for note in noted] == ["step 0", "step 1", "step 3"]
    assert read_tuner(run_folder(values) / "best.safetensors").metadata["scedit.step"] == "4"
