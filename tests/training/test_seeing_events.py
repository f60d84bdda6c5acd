"""What a run tells: the log and its torn lines, the terminal, TensorBoard, and listeners that fail."""

from __future__ import annotations

import io
import json

import pytest
import torch
from PIL import Image
from rich.console import Console

from scedit_core.fitting.event_log import EventLog, latest_run_of_steps, plain, read_events
from scedit_core.fitting.events import Events
from scedit_core.fitting.pace import Pace, duration
from training.config_file import load_config, parse_config
from training.seeing.boards import TensorBoard
from training.seeing.listening import open_events
from training.seeing.run_config import write_run_config


class Kept:
    """A listener that remembers, and that fails where it is told to."""

    def __init__(self, fails_at: str = "") -> None:
        self.heard, self.fails_at, self.closed = [], fails_at, False

    def take(self, event):
        if event["event"] == self.fails_at:
            raise OSError("No space left on device")
        self.heard.append(event)

    def close(self):
        self.closed = True


def steps(first: int, last: int) -> list[dict]:
    return [{"event": "step", "step": i, "steps": 9, "loss": i / 10} for i in range(first, last + 1)]


def test_every_value_becomes_plain_json(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    values = {"path": tmp_path, "loss": torch.tensor(0.5), "bad": float("nan"), "worse": [float("inf")], 3: (1, True)}
    log.take({"event": "step", **plain(values)})
    log.close()
    found = read_events(tmp_path / "events.jsonl")
    assert found == [
        {"event": "step", "path": str(tmp_path), "loss": 0.5, "bad": None, "worse": [None], "3": [1, True]}
    ]


@pytest.mark.parametrize("torn", [b'{"event": "step", "st', b'{"event": "note", "message": "\xc3', b"\n\n", b"17\n"])
def test_a_killed_run_leaves_a_log_that_reads_and_goes_on(tmp_path, torn):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "plan"}\n' + torn)
    assert read_events(path) == [{"event": "plan"}]
    log = EventLog(path)
    log.take({"event": "note", "message": "again"})
    log.close()
    assert read_events(path) == [{"event": "plan"}, {"event": "note", "message": "again"}]


def test_steps_done_again_replace_those_before():
    plan, other = {"event": "plan"}, {"event": "preview", "step": 4}
    events = [plan, *steps(1, 5), other, {"event": "note"}, plan, *steps(4, 6)]
    kept = latest_run_of_steps(events)
    assert [e["step"] for e in kept if e["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert other not in kept
    assert {"event": "note"} in kept
    anew = latest_run_of_steps([*events, plan, *steps(1, 2)])
    assert [e["step"] for e in anew if e["event"] == "step"] == [1, 2]


def test_a_listener_that_fails_is_left_out_and_named():
    good, bad = Kept(), Kept(fails_at="step")
    events = Events([bad, good])
    events.emit("note", message="before")
    events.emit("step", step=1, steps=2, loss=1.0)
    events.emit("step", step=2, steps=2, loss=1.0)
    assert [e["event"] for e in bad.heard] == ["note"]
    assert [e["event"] for e in good.heard] == ["note", "step", "note", "step"]
    assert "No space left on device" in good.heard[2]["message"]
    events.close()
    assert good.closed


def test_a_step_is_told_with_pace_and_memory():
    kept = Kept()
    events = Events([kept])
    events.emit("plan", batch=6, images=1, steps=3)
    events.emit("step", step=1, steps=3, loss=0.5, memory_mib=7)
    told = kept.heard[-1]
    assert told["memory_mib"] == 7
    assert told["images_per_second"] > 0
    assert told["eta_seconds"] == pytest.approx(2 * 6 / told["images_per_second"])
    assert told["time"][10] == "T"


def test_pace_leaves_pauses_out():
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    now[0] = 2.0
    assert pace.step(1, 11, 4)["images_per_second"] == 2
    now[0] = 500.0  # a preview
    pace.pause()
    now[0] = 501.0
    assert pace.step(2, 11, 4)["images_per_second"] == 4  # the first, slow step is forgotten
    now[0] = 504.0
    told = pace.step(3, 11, 4)
    assert told["images_per_second"] == 2
    assert told["eta_seconds"] == 16
    assert told["memory_mib"] > 10


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (59.7, "1 min 00 s"), (192, "3 min 12 s"), (7503, "2 h 05 min"), (-3, "0 s")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_tells_what_matters(values, terminal):
    values["tensorboard"] = False
    written = io.StringIO()
    events = open_events(parse_config(values), Console(file=written, force_terminal=terminal, width=200))
    events.emit("plan", base="tiny", images=5, steps=2, batch=2, parameters=2_000_000, resolution=64)
    events.emit("caching", done=5, total=5, hits=2, misses=3)
    for step in (1, 2):
        events.emit("step", step=step, steps=2, loss=0.25, learning_rate=1e-4, grad_norm=1.0)
    events.emit("validation", step=2, loss_with=0.1, loss_without=0.2, loss_other_hint=0.15, loss_trained=0.09)
    events.emit("stopped", reason="SIGINT")
    events.emit("note", message="[not markup] at 100 %")
    events.close()
    said = written.getvalue()
    for words in (
        "base tiny, SC-Tuner of 2.00 M parameters",
        "5 images at 64 px, 2 updates of 2 images",
        "2 from the cache, 3 made",
        "loss 0.2500, 0 s left, lr 1.0e-04",
        "images/s",
        "MiB",
        "0.1000 with the tuner, 0.2000 without, 0.1500 with it and another picture's hint, 0.0900 with it on",
        "stopped (SIGINT)",
        "[not markup] at 100 %",
    ):
        assert words in said


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_narrow_terminal_shows_the_step_whole(values, width):
    values |= {"tensorboard": False, "tuner": {"kind": "csc"}}
    values["data"]["condition"] = {"type": "canny"}
    written = io.StringIO()
    events = open_events(parse_config(values), Console(file=written, force_terminal=True, width=width))
    shown = {"loss": 0.25, "learning_rate": 1e-4, "images_per_second": 123.4, "memory_mib": 10240.0}
    for step in (12344, 12345):
        events.emit("step", step=step, steps=20000, eta_seconds=34000, **shown)
    events.close()
    said = written.getvalue()
    assert "12345/20000" in said
    assert "loss 0.2500" in said
    assert "9 h 26 min left" in said
    assert ("10240 MiB" in said) == (width > 100)


def test_tensorboard_has_the_numbers_and_hides_steps_done_again(values, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = parse_config(values)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "preview.jpg")
    for first in (1, 3):
        board = TensorBoard(config)
        for event in steps(first, 5):
            board.take(event | {"loss": event["loss"] + first})
        board.take({"event": "validation", "step": 5, "loss_with": 0.1, "by_timestep": [{"timestep": 9, "x": 0.5}]})
        board.take({"event": "preview", "step": 5, "path": str(tmp_path / "preview.jpg")})
        board.close()
    read = EventAccumulator(str(config.run_folder / "tensorboard"))
    read.Reload()
    assert [round(e.value, 3) for e in read.Scalars("train/loss")] == [1.1, 1.2, 3.3, 3.4, 3.5]
    assert read.Scalars("validation_t9/x")[0].value == 0.5
    assert read.Images("previews")[0].width == 8


def test_a_run_that_is_stopped_has_a_report(values):
    config = parse_config(values | {"tensorboard": False})
    written = io.StringIO()
    events = open_events(config, Console(file=written, width=200))
    events.emit("plan", base="tiny", images=None, steps=5, batch=2)
    events.emit("step", step=1, steps=5, loss=0.5)
    assert not (config.run_folder / "report.html").exists()
    events.emit("stopped", reason="SIGTERM")
    events.close()
    assert "1 of 5 steps so far" in (config.run_folder / "report.html").read_text("utf-8")
    assert "images in shards, 5 updates" in written.getvalue()
    assert "note" not in written.getvalue()


def test_only_the_main_process_tells(values):
    config = parse_config(values)
    events = open_events(config, Console(), main_process=False)
    events.emit("plan", images=1)
    events.close()
    assert not config.run_folder.exists()


def test_a_folder_that_cannot_be_written_is_a_note(values, tmp_path):
    (tmp_path / "file").write_text("")
    values |= {"run": str(tmp_path / "file" / "run"), "tensorboard": False}
    written = io.StringIO()
    events = open_events(parse_config(values), Console(file=written, width=300))
    events.emit("step", step=1, steps=1, loss=1.0)
    events.close()
    assert "no log is kept" in written.getvalue()


def test_wandb_that_is_not_installed_is_a_note(values):
    values |= {"wandb": True, "tensorboard": False}
    written = io.StringIO()
    try:
        import wandb  # noqa: F401
    except ImportError:
        open_events(parse_config(values), Console(file=written, width=300)).close()
        assert "pip install wandb" in written.getvalue()
    else:
        pytest.skip("wandb is installed")


def test_the_configuration_of_a_run_can_be_run_again(control_values, tmp_path):
    control_values["previews"] = {"hints": ["hint.png"], "prompts": ["Ein Löwe"]}
    (tmp_path / "train.yaml").write_text(json.dumps(control_values))
    config = load_config(tmp_path / "train.yaml")
    again = load_config(write_run_config(config))
    assert again == config
    assert again.previews.hints == [tmp_path / "hint.png"]


def test_wandb_without_an_account_writes_to_the_run_folder(values, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: it is for those who ask for it")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    values |= {"wandb": True, "tensorboard": False}
    config = parse_config(values)
    written = io.StringIO()
    events = open_events(config, Console(file=written, width=300))
    events.emit("plan", base="tiny", images=1, steps=1, batch=1)
    events.emit("step", step=1, steps=1, loss=0.5)
    events.emit("validation", step=1, loss_with=0.1, loss_without=0.2)
    events.close()
    wandb.teardown()  # its process writes out what is left
    assert "note" not in written.getvalue()
    logs = list((config.run_folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 1
    assert all(name in logs[0].read_bytes() for name in (b"train/loss", b"validation/loss_with"))
