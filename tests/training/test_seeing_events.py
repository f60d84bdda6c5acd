"""What a run tells: the log and its torn lines, the terminal, TensorBoard, and listeners that fail."""

from __future__ import annotations

import io
import json
import os

import pytest
import torch
from PIL import Image
from rich.console import Console

from scedit_core.fitting import reporting
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
    events.emit("step", step=1, steps=10**9, loss=0.5, seconds_left=90.0)  # of a run in minutes
    assert (kept.heard[-1]["eta_seconds"], "seconds_left" in kept.heard[-1]) == (90.0, False)


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
        "loss 0.2500, 0 s left, 0 s so far, lr 1.0e-04",
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
    assert ("0 s so far" in said) == (width >= 80)
    assert ("10240 MiB" in said) == (width > 100)


def test_the_terminal_tells_the_whole_plan_and_ends_with_what_was_made(values, tmp_path, monkeypatch):
    values |= {"tensorboard": False, "output": str(tmp_path / "style.safetensors")}
    monkeypatch.chdir(tmp_path)
    written = io.StringIO()
    events = open_events(parse_config(values), Console(file=written, width=80))
    sizes = [[512, 512, 20], [448, 576, 7], *([64 * n, 64, 1] for n in range(1, 7))]
    rate = {"optimizer": "adamw", "learning_rate": 1e-4, "schedule": "cosine", "restarts": 2, "warmup": 50}
    events.emit("plan", base="tiny", images=33, steps=1500, batch=4, buckets=sizes, minutes=45.0, **rate)
    events.emit("step", step=1500, steps=1500, loss=0.25)
    events.emit("finished", step=1500, path=str(tmp_path / "style.safetensors"))
    events.close()
    said = written.getvalue().splitlines()
    assert "adamw, rate 1.0e-04 (cosine with 2 restarts, 50 updates of warmup)" in said
    assert "45 minutes, of which that number of updates is the estimate" in said
    assert "sizes 512x512: 20, 448x576: 7, 64x64: 1, 128x64: 1, 192x64: 1, 256x64: 1, and 2 more" in said
    assert said[-1] == f"finished in 0 s: tuner style.safetensors, report {os.path.join('style.run', 'report.html')}"
    assert (tmp_path / "style.run" / "report.html").is_file()


def test_a_report_is_written_while_the_run_goes_on_in_two_seconds_of_a_minute(tmp_path, monkeypatch):
    """A report takes 3 s here, and a step one: in ten minutes no more than 20 s go into it, of which the first before
    half a minute is over."""
    now, written = [0.0], []

    def write(folder, live, word):
        written.append((now[0], live))
        now[0] += 3.0

    monkeypatch.setattr(reporting, "write_report", write)
    listener = reporting.Reporting(tmp_path, clock=lambda: now[0])
    listener.take({"event": "caching"})
    now[0] = 100.0
    listener.take({"event": "plan"})
    while now[0] < 700:
        now[0] += 1.0
        listener.take({"event": "step"})
    assert written[0] == (120.0, True)
    assert 3.0 * len(written) <= 20 + 3
    assert len(written) >= 5
    listener.take({"event": "finished"})
    assert written[-1] == (now[0] - 3.0, False)


def test_a_report_that_cannot_be_written_meanwhile_is_tried_again(tmp_path, monkeypatch):
    now, tries = [0.0], []

    def write(folder, live, word):
        tries.append(live)
        raise OSError("No space left on device")

    monkeypatch.setattr(reporting, "write_report", write)
    listener = reporting.Reporting(tmp_path, clock=lambda: now[0])
    listener.take({"event": "plan"})
    for now[0] in (30.0, 60.0):
        listener.take({"event": "step"})
    assert tries == [True, True]
    with pytest.raises(OSError, match="No space"):
        listener.take({"event": "stopped"})


def test_a_run_that_fails_has_its_report_and_one_that_is_refused_leaves_it_alone(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(reporting, "write_report", lambda folder, live, word: written.append(live))
    listener = reporting.Reporting(tmp_path)
    listener.take({"event": "error"})
    assert written == []
    listener.take({"event": "plan"})
    listener.take({"event": "error"})
    assert written == [False]


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
