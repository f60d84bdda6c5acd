"""Tuner files that are kept on the way, and losses that are read one update late."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import events, run_folder, stop_after, train

from scedit_core import inspect_tuner, load_tuner
from scedit_core.errors import ConfigError
from scedit_core.fitting import loop as fitting
from scedit_core.fitting.events import Events
from scedit_core.fitting.new_tuner import trainable
from scedit_core.fitting.processes import OneProcess, Wishes
from scedit_core.fitting.run_folder import RunFolder
from scedit_core.fitting.tuner_file import STEP
from training.config_file import parse_config
from training.loop import prepare


@pytest.fixture
def quiet(values, unwatched) -> dict:
    values["loop"] |= {"steps": 6, "learning_rate": 1e-3}
    values["saving"] = {"every": 2, "keep": 9, "tuners": 2}
    return values


def names(values: dict) -> list[str]:
    return sorted(path.name for path in Path(values["output"]).parent.glob("*.safetensors"))


def test_files_on_the_way_are_the_tuner_of_their_step(quiet):
    output = train(quiet)
    assert names(quiet) == ["tuner-step-000002.safetensors", "tuner-step-000004.safetensors", "tuner.safetensors"]
    for step in (2, 4):
        file = output.with_name(f"tuner-step-{step:06d}.safetensors")
        found = load_file(file)
        expected = load_file(run_folder(quiet) / "checkpoints" / f"step-{step:06d}" / "tuner.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert inspect_tuner(file)["metadata"]["scedit.step"] == str(step)
    assert [(e["step"], Path(e["path"]).name) for e in events(quiet, "tuner")] == [
        (2, names(quiet)[0]),
        (4, names(quiet)[1]),
    ]


def test_a_tuner_that_began_with_one_is_none_itself(quiet, tmp_path):
    train(quiet)
    begun = sorted(Path(quiet["output"]).parent.glob("*-step-*.safetensors"))[0]
    assert STEP in load_tuner(begun).metadata
    quiet["tuner"]["start_from"], quiet["output"] = str(begun), str(tmp_path / "next.safetensors")
    assert STEP not in load_tuner(train(quiet)).metadata


def test_a_stop_keeps_one_too(quiet, monkeypatch):
    stop_after(3, monkeypatch)
    assert train(quiet) is None
    assert names(quiet) == ["tuner-step-000002.safetensors", "tuner-step-000003.safetensors"]


def test_a_run_that_begins_anew_takes_those_of_the_earlier_one_aside(quiet):
    train(quiet)
    before = {name: (Path(quiet["output"]).parent / name).read_bytes() for name in names(quiet)}
    quiet["saving"]["tuners"] = 5
    train(quiet, start="never")
    assert names(quiet) == ["tuner-step-000005.safetensors", "tuner.safetensors"]
    kept = run_folder(quiet) / "earlier" / "1"
    assert {path.name: path.read_bytes() for path in kept.glob("tuner*.safetensors")} == before


def test_going_back_takes_the_later_ones_aside(quiet):
    train(quiet)
    train(quiet, start=str(run_folder(quiet) / "checkpoints" / "step-000002"))
    assert (run_folder(quiet) / "earlier" / "1" / "tuner-step-000004.safetensors").is_file()
    assert names(quiet)[:2] == ["tuner-step-000002.safetensors", "tuner-step-000004.safetensors"]


def test_a_file_of_that_name_that_is_something_else_is_not_written_over(quiet, base_folder):
    output = Path(quiet["output"])
    output.parent.mkdir()
    other = output.with_name("tuner-step-000004.safetensors")
    shutil.copyfile(base_folder / "unet" / "diffusion_pytorch_model.safetensors", other)
    before = other.read_bytes()
    with pytest.raises(ConfigError, match=r"found another kind of file at .*tuner-step-000004"):
        train(quiet)
    assert other.read_bytes() == before
    other.unlink()
    quiet["tuner"]["start_from"] = str(other)
    with pytest.raises(ConfigError, match=r"named as tuner\.start_from is"):
        train(quiet)


# ---- read late ----


def test_the_losses_are_the_same_whether_they_are_read_late_or_at_once(quiet, tmp_path):
    late = quiet | {"output": str(tmp_path / "late.safetensors"), "saving": {"every": 100}}
    at_once = quiet | {"output": str(tmp_path / "at-once.safetensors"), "saving": {"every": 1}}
    told = []
    for values in (late, at_once):
        train(values)
        told.append([[e[k] for k in ("step", "loss", "grad_norm", "learning_rate")] for e in events(values, "step")])
    assert told[0] == told[1]
    assert [step for step, *_ in told[0]] == [1, 2, 3, 4, 5, 6]


def test_an_update_is_told_while_the_next_is_on_its_way(quiet, monkeypatch):
    order = []
    update, tell = fitting.update, fitting.tell
    monkeypatch.setattr(fitting, "update", lambda run: (order.append(f"update {run.step + 1}"), update(run))[1])
    monkeypatch.setattr(fitting, "tell", lambda run, told: (order.append(f"told {told.step}"), tell(run, told))[1])
    quiet["saving"] = {"every": 4}
    train(quiet)
    assert order == [
        *("update 1", "update 2", "told 1", "update 3", "told 2", "update 4", "told 3", "told 4"),  # saved
        *("update 5", "update 6", "told 5", "told 6"),
    ]


class _Waits(TorchDispatchMode):
    """Notes operations for which the computer waits for a device: those that need a value of a tensor."""

    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim")

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in self.NAMES:
            self._found.append(name)
        return function(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    """Notes reads of a tensor that do not go through the dispatcher when it lies on the CPU."""

    NAMES = ("tolist", "item", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.NAMES:
            self._found.append(function.__name__)
        return function(*args, **(kwargs or {}))


class _Two(OneProcess):
    """One of two processes, of which the other wants nothing."""

    num_processes = 2

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))


def test_processes_stop_after_the_same_update(monkeypatch):
    """Each learns what any of them wants one update late, so that none waits; one alone knows at once."""
    here, there = Wishes(_Two()), Wishes(_Two())
    wants = [(None, False), ("SIGINT", False), ("SIGINT", True), ("SIGINT", True)]
    found = []
    for stop, over in wants:
        both = torch.tensor([float(stop is not None), float(over)])
        monkeypatch.setattr(_Two, "reduce", lambda _self, flags, how, both=both: both)
        found.append((here.share(stop, over), there.share(None, False)))
    assert found[:2] == [((None, False), (None, False))] * 2
    assert found[2] == (("SIGINT", False), ("another process", False))
    assert found[3] == (("SIGINT", True), ("another process", True))
    assert Wishes(OneProcess(torch.device("cpu"))).share("SIGINT", True) == ("SIGINT", True)


@pytest.mark.parametrize(("kind", "precision"), [("sc", "fp32"), ("csc", "fp32"), ("sc", "fp16")])
def test_nothing_in_an_update_waits_for_the_device(values, control_values, unwatched, kind, precision):
    values = control_values if kind == "csc" else values | {"tuner": {"kind": "sc"}}
    if kind == "sc":
        values["data"] = {key: value for key, value in values["data"].items() if key != "condition"}
    values["loop"] |= {"accumulate": 2, "ema": 0.9, "precision": precision}
    values["objective"] = {"noise_offset": 0.05, "min_snr_gamma": 5.0, "caption_dropout": 0.5, "loss": "huber"}
    config = parse_config(values)
    folder = RunFolder(config.run_folder)
    folder.path.mkdir(parents=True)
    run = prepare(config, Accelerator(cpu=True), folder, Events())
    # as on a GPU: there the optimiser counts its updates on the device, here in numbers that it reads
    run.optimizer = torch.optim.AdamW(trainable(run.tuner), fused=True)
    fitting.update(run)
    batches = [run.data.batch(step, 2, (0, 1)) for step in (2, 3)]  # read by a thread of its own as a rule
    run.data.batch = lambda number, size, part: batches[number % 2]
    found: list[str] = []
    fitting.settle(run)  # fp16: of the update before, which the device has done long before it is asked
    with _Waits(found), _Reads(found):
        told = fitting.update(run)
        before = Wishes(_Two()).share(None, False)
    assert (found, before) == ([], (None, False))
    with _Waits(found), _Reads(found):  # and what would be counted is
        told.read()
        bool(run.tuner.tuners["0"].up.weight.sum() > 0)
    assert {"tolist", "_local_scalar_dense"} <= set(found)
