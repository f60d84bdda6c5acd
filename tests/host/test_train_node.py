"""The training node, with the real trainer in its process: from pictures to a tuner, cancelled, resumed, refused."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import pytest
import warm
import yaml
from comfy_execution.graph_utils import ExecutionBlocker
from conftest import PACK_NAME, PACK_ROOT
from filelock import FileLock
from PIL import Image
from small_model import small_model
from small_tuners import apply_sc
from tiny_training import QUICK, write_tiny_training

CHECKPOINT = "base.safetensors"  # listed, but the configuration file names another base
WIDGETS = {
    "ckpt_name": CHECKPOINT,
    "folder": "",
    "name": "lantern",
    "kind": "style",
    "preset": "fast",
    "steps": 12,
    "resolution": 64,
}

# The trainer's process is the same on every host, and takes ten seconds of a processor to start.
once = pytest.mark.skipif(os.environ.get("SCEDIT_TEST_PART") == "no server", reason="tested on the newest host")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_training(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def train(pack) -> SimpleNamespace:
    """The node's modules."""
    names = ("train_tuner", "trainer_config", "page", "trainer_process")
    return SimpleNamespace(**{name: importlib.import_module(f"{PACK_NAME}.nodes.training.{name}") for name in names})


@pytest.fixture
def warm_start(train, monkeypatch) -> None:
    """Trainers begin with their packages imported; without it they start as a user's."""
    monkeypatch.setattr(train.trainer_process.subprocess, "Popen", warm.Started)


@pytest.fixture
def host_folders(tmp_path, tiny, monkeypatch) -> Path:
    """Empty output and input folders of the host, and a checkpoint to choose."""
    for name in ("output", "input", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoints" / CHECKPOINT).touch()
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths,
        "checkpoints",
        ([str(tmp_path / "checkpoints")], folder_paths.supported_pt_extensions),
    )
    folder_paths.filename_list_cache.clear()
    return tmp_path


@pytest.fixture
def run(pack, tiny, host_folders):
    """Run the node with some widgets changed; gives its outputs."""

    def run(**changed):
        node = pack.nodes["SCEditTrainTuner"]
        widgets = {**WIDGETS, "folder": str(tiny / "pictures"), "config_file": str(tiny / "quick.yaml"), **changed}
        return node.execute(**widgets).args

    yield run
    for file in (Path(folder_paths.models_dir) / "scedit").glob("*"):
        file.unlink()


def events(host_folders: Path, name: str = "lantern") -> list[dict]:
    lines = (host_folders / "output" / "scedit" / name / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def steps(found: list[dict]) -> list[int]:
    return [event["step"] for event in found if event["event"] == "step"]


def when(condition, act, seconds: float = 120) -> threading.Thread:
    """Do `act` from another thread once `condition` holds, as the page's cancel button does."""

    def wait() -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                act()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("warm_start")
def test_a_style_cancelled_resumed_and_at_work(pack, train, run, tiny, host_folders):
    shown = train.page._shown
    begun = when(
        lambda: shown.get("lantern", {}).get("step", 0) >= 3 and shown["lantern"]["state"] == "running",
        lambda: comfy.model_management.interrupt_current_processing(True),
    )
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(steps=5000)
    begun.join()
    first = steps(events(host_folders))
    assert 3 <= first[-1] < 5000
    assert shown["lantern"]["state"] == "stopped"
    assert f"stopped at step {first[-1]}; queue again to resume" in shown["lantern"]["text"]
    checkpoints = host_folders / "output" / "scedit" / "lantern" / "checkpoints"
    assert (checkpoints / f"step-{first[-1]:06d}").is_dir()
    assert not (Path(folder_paths.models_dir) / "scedit" / "lantern.safetensors").exists()

    last = first[-1] + 6
    tuner, blocked = run(steps=last)
    assert steps(events(host_folders))[len(first) :] == list(range(first[-1] + 1, last + 1))
    assert isinstance(tuner, pack.managed.ManagedTuner)
    assert tuner.tuner.metadata["scedit.resolution"] == "64"
    assert isinstance(blocked, ExecutionBlocker)
    assert "this training made a style; connect sc_tuner" in blocked.message
    with pytest.raises(pack.core.LayoutError, match="expected a tuner for"):  # for the tiny base, not for this model
        apply_sc(pack, small_model(), tuner)
    state = shown["lantern"]
    assert (state["state"], state["step"], state["steps"]) == ("finished", last, last)
    assert len(state["losses"]) > 1
    with Image.open(train.page._previews["lantern"]) as preview:
        assert min(preview.size) >= 64
    assert (host_folders / "output" / "scedit" / "lantern" / "report.html").stat().st_size > 1000

    (host_folders / "input" / "mine.yaml").write_text(QUICK + "tuner: {ratio: 0.5}\n")
    os.symlink(tiny / "base", host_folders / "input" / "base")
    with pytest.raises(pack.core.SCEditError, match=r"expected a checkpoint of these settings, found .*tuner\.ratio"):
        run(steps=last + 2, config_file="mine.yaml")


@pytest.mark.usefixtures("warm_start")
def test_a_control_comes_out_as_control_net(pack, run, host_folders):
    blocked, control = run(kind="canny", name="controls/edges", steps=2)
    assert isinstance(control, pack.control.SCEditControl)
    assert "canny" in control.tuner.tuner.metadata["scedit.condition"]
    assert "made a control; connect control_net" in blocked.message
    path = Path(folder_paths.models_dir) / "scedit" / "controls" / "edges.safetensors"
    assert path.is_file()
    path.unlink()
    path.parent.rmdir()


@once
@pytest.mark.usefixtures("warm_start")
def test_a_panel_that_fails_does_not_end_the_training(run, train, monkeypatch, caplog):
    take = train.page.TrainingPage.take

    def fail(page, event):
        take(page, event)
        if event["event"] == "step":
            raise RuntimeError("of the panel")

    monkeypatch.setattr(train.page.TrainingPage, "take", fail)
    assert run(steps=2)[0] is not None
    assert "the panel leaves out what the trainer has said" in caplog.text


@once
@pytest.mark.usefixtures("warm_start")
@pytest.mark.parametrize("case", ["family", "locked"])
def test_the_trainers_own_sentence(case, pack, train, run, host_folders):
    """What the trainer refuses is told as it says it, and the page shows it too."""
    changed, folder = {"steps": 2}, host_folders / "output" / "scedit" / "lantern"
    with contextlib.ExitStack() as stack:
        if case == "family":
            write_transformer(host_folders / "checkpoints" / CHECKPOINT)
            (host_folders / "input" / "mine.yaml").write_text(QUICK.replace("base: base\n", ""))
            changed["config_file"], sentence = "mine.yaml", "Flux-like transformer, which has no skips to edit"
        else:
            folder.mkdir(parents=True)
            stack.enter_context(FileLock(folder / "lock"))
            sentence = "expected a run folder that no other run uses, found it locked"
        with pytest.raises(pack.core.SCEditError) as refusal:
            run(**changed)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    shown = train.page._shown["lantern"]
    assert (shown["state"], shown["text"]) == ("failed", str(refusal.value))


@once
def test_a_full_disk_is_one_sentence(pack, run, host_folders):
    """The trainer may write files of 64 KiB only, which its log fits into and its checkpoint does not."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(pack.core.SCEditError, match=r"expected .*room .*found") as refusal:
            run(steps=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(refusal.value)
    assert not list((Path(folder_paths.models_dir) / "scedit").glob("*.safetensors"))
    assert not list((host_folders / "output").rglob("step-*"))


@once
def test_a_trainer_that_dies_is_told_of(pack, train, run, monkeypatch):
    started = []
    real = subprocess.Popen

    def start(*arguments, **options):
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(train.trainer_process.subprocess, "Popen", start)
    killer = when(lambda: started, lambda: started[0].kill())
    with pytest.raises(pack.core.SCEditError, match=rf"ended with signal {signal.SIGKILL.value}, .*memory.*log\.txt"):
        run(steps=5000)
    killer.join()


@once
@pytest.mark.usefixtures("warm_start")
@pytest.mark.parametrize("when_", ["at the start", "after a step"])
def test_a_host_that_dies_leaves_no_trainer(train, run, tiny, host_folders, when_):
    """The trainer notices that its standard input has ended, which the system closes with the host: it saves what it
    has trained, and ends where it has not trained yet."""
    folder = host_folders / "output" / "scedit" / "lantern"
    values = {**yaml.safe_load(QUICK), "base": str(tiny / "base"), "output": str(host_folders / "lantern.safetensors")}
    values |= {"run": str(folder), "tuner": {"kind": "sc"}, "tensorboard": False}
    values["data"] = {"folder": str(tiny / "pictures"), "resolution": 64}
    values["loop"] = {**values["loop"], "steps": 5000}
    train.trainer_config.write(values, folder / "node.yaml")
    process = train.trainer_process.TrainingProcess(folder / "node.yaml", folder, resume=True, on_cpu=True)
    deadline = time.monotonic() + 120
    while when_ == "after a step" and not steps(process.events()):
        assert process.running, process.failure()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process._process.stdin.close()
    assert process._process.wait(120) == 0, process.failure()
    found = events(host_folders)
    assert found[-1]["event"] == "stopped"
    saved = [path.name for path in (folder / "checkpoints").glob("*")]
    assert saved == ([] if when_ == "at the start" else [f"step-{steps(found)[-1]:06d}"])


@once
def test_cancelled_in_the_first_seconds(pack, train, run, host_folders, monkeypatch):
    """Before the trainer has loaded anything: it ends, and an earlier run that it was to begin anew stays."""
    folder = host_folders / "output" / "scedit" / "lantern"
    kept = folder / "checkpoints" / "step-000005" / "state.pt"
    kept.parent.mkdir(parents=True)
    kept.write_text("the earlier run")
    started, real = [], subprocess.Popen

    def start(*arguments, **options):
        started.append(real(*arguments, **options))
        comfy.model_management.interrupt_current_processing(True)
        return started[-1]

    monkeypatch.setattr(train.trainer_process.subprocess, "Popen", start)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(steps=5000, resume=False)
    assert started[0].poll() is not None
    assert train.page._shown["lantern"]["state"] == "stopped"
    assert kept.read_text() == "the earlier run"
    assert not (folder / "earlier").exists()


@once
@pytest.mark.usefixtures("warm_start")
def test_a_second_trainer_leaves_the_first_ones_files(train, host_folders):
    folder = host_folders / "output" / "scedit" / "lantern"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("of the first\n")
    (folder / "stop").touch()  # which the first has not heard yet
    (folder / "none.yaml").write_text("{}")
    with FileLock(folder / "lock"):
        process = train.trainer_process.TrainingProcess(folder / "none.yaml", folder, resume=True, on_cpu=True)
        assert process._process.wait(120) == 2
    assert (folder / "log.txt").read_text().startswith("of the first\n")
    assert (folder / "stop").exists()


def test_the_trainer_finds_what_this_python_finds(train, tmp_path, monkeypatch):
    """PYTHONPATH, which the requirements are looked for in; and the pack's own modules before those of that path."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise SystemExit('not the pack')")
    (tmp_path / "only_here.py").write_text("print('found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process_of = train.trainer_process
    script = process_of._START.replace('runpy.run_module("training", run_name="__main__", alter_sys=True)', "")
    script += "\nimport only_here, training\nprint(training.__file__)\n"
    done = subprocess.run(
        [sys.executable, "-c", script, str(PACK_ROOT), str(tmp_path / "stop")],
        env=process_of._environment(on_cpu=True),
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["found", str(PACK_ROOT / "training" / "__init__.py")], done.stderr


def test_missing_requirements_are_one_command(pack, train, run, tmp_path, monkeypatch):
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("# a comment\npyyaml>=1\nno-such-package-of-scedit>=2  # a reason\nrich>=9999\n")
    monkeypatch.setattr(train.trainer_process, "REQUIREMENTS", wanted)
    with pytest.raises(pack.core.SCEditError) as refusal:
        run()
    message = str(refusal.value)
    sentence, command, missing = message.split("\n")
    assert "run the next line, and restart ComfyUI" in sentence
    assert command == f'"{sys.executable}" -m pip install -r "{wanted}"'
    assert missing == "(missing: no-such-package-of-scedit>=2, rich>=9999)"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"folder": ""}, "folder: expected a folder of pictures, found none"),
        ({"folder": "nowhere"}, "folder: expected a folder of pictures, found no folder at"),
        ({"name": "../outside"}, "name: expected a file name inside"),
        ({"config_file": "nowhere.yaml"}, "config_file: expected a YAML file at"),
    ],
    ids=["no-folder", "wrong-folder", "name", "config-file"],
)
def test_wrong_widgets_are_refused_before_anything_starts(pack, train, run, changed, sentence, monkeypatch):
    monkeypatch.setattr(train.trainer_process.subprocess, "Popen", None)
    with pytest.raises(pack.core.SCEditError, match=sentence) as refusal:
        run(**changed)
    shown = train.page._shown[changed.get("name", "lantern")]
    assert (shown["state"], shown["text"]) == ("failed", str(refusal.value))


@once
def test_the_panels_own_button_stops_it_from_the_first_second(train, run):
    """By its address, before a step is done; nothing else that ComfyUI runs is interrupted."""
    running, shown = train.page._running, train.page._shown
    begun = when(lambda: "lantern" in running, lambda: setattr(running["lantern"], "stop_wanted", True))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(steps=5000)
    begun.join()
    assert not comfy.model_management.processing_interrupted()
    assert shown["lantern"]["state"] == "stopped"
    assert "lantern" not in running


def test_another_checkpoint_of_the_same_name_is_trained_on(pack, host_folders):
    fingerprint = pack.nodes["SCEditTrainTuner"].fingerprint_inputs
    before = fingerprint(ckpt_name=CHECKPOINT)
    (host_folders / "checkpoints" / CHECKPOINT).write_text("another")
    assert fingerprint(ckpt_name=CHECKPOINT) != before


@once
@pytest.mark.usefixtures("warm_start")
def test_a_new_beginning_that_is_cancelled_says_how_to_go_on(train, run, host_folders):
    shown = train.page._shown
    shown.clear()
    begun = when(
        lambda: shown.get("lantern", {}).get("step", 0) >= 1 and shown["lantern"]["state"] == "running",
        lambda: comfy.model_management.interrupt_current_processing(True),
    )
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(steps=5000, resume=False)
    begun.join()
    assert "; turn resume on and queue again to resume" in shown["lantern"]["text"]


def write_transformer(path: Path) -> None:
    """A checkpoint of a family without skips."""
    import safetensors.torch
    import torch

    weight = torch.zeros(4, 4)
    safetensors.torch.save_file({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": weight}, path)
