"""A run that is killed and resumed ends in the same weights as one that was left alone, bit for bit."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE))  # the child processes import killed_run by its name

import killed_run  # noqa: E402
import ranked_run  # noqa: E402
import warm  # noqa: E402

from scedit_core.fitting.checkpoints import checkpoints_in  # noqa: E402

STEPS = 12


@pytest.fixture(scope="module")
def processes():
    return warm.processes(HERE)


def in_process(processes, function, *arguments) -> int:
    """Its exit status after that function."""
    process = processes.Process(target=_checked, args=(function, *arguments))
    process.start()
    process.join(120)
    assert process.exitcode is not None, f"still running after 120 s: {arguments[-1]}"
    return process.exitcode


def _checked(function, *arguments) -> None:
    warm.check()
    function(*arguments)


def long_values(values: dict, folder: Path, kind: str) -> dict:
    """A run of 12 updates over 3 pictures, with a checkpoint every 3, previews every 2, EMA, dropout and min-SNR."""
    values = copy.deepcopy(values)
    values["output"] = str(folder / "tuner.safetensors")
    values["loop"] |= {"steps": STEPS, "batch": 1, "warmup": 2, "learning_rate": 1e-2, "ema": 0.9, "accumulate": 1}
    values["objective"] = {"caption_dropout": 0.5, "min_snr_gamma": 5.0, "noise_offset": 0.05}
    values["saving"] = {"every": 3, "keep": 2}
    values["previews"] = {"every": 2, "count": 1, "steps": 2}
    values["validation"] = {"every": 4, "images": 1, "timesteps": 2}
    values["tensorboard"] = False
    if kind == "csc":
        values["tuner"] = {"kind": "csc", "stem_width": 32}
        values["data"] |= {"condition": {"type": "canny"}}
        values["objective"]["condition_dropout"] = 0.3
    return values


@pytest.fixture(scope="module")
def three_pictures(tmp_path_factory, tiny) -> Path:
    return tiny.write_drawn_pictures(tmp_path_factory.mktemp("three") / "set", 3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base_folder, three_pictures, processes):
    """Kind -> the weights of a run that nothing disturbed."""
    made = {}
    for kind in ("sc", "csc"):
        folder = tmp_path_factory.mktemp(kind)
        values = long_values(plain_values(base_folder, three_pictures), folder, kind)
        assert in_process(processes, killed_run.run, values) == 0
        made[kind] = load_file(folder / "tuner.safetensors")
    return made


def plain_values(base_folder: Path, pictures: Path) -> dict:
    return {
        "base": str(base_folder),
        "tuner": {"kind": "sc"},
        "data": {"folder": str(pictures), "resolution": 64},
        "loop": {"precision": "fp32"},
    }


@pytest.mark.parametrize("kind", ["sc", "csc"])
def test_killed_five_times_and_resumed_is_bit_identical(
    kind, undisturbed, tmp_path, base_folder, three_pictures, processes
):
    values = long_values(plain_values(base_folder, three_pictures), tmp_path, kind)
    reached = []
    for point in killed_run.POINTS:
        assert in_process(processes, killed_run.run, values, point) == -signal.SIGKILL, point
        assert not (tmp_path / "tuner.safetensors").exists()
        reached.append([p.name for p in checkpoints_in(tmp_path / "tuner.run" / "checkpoints")])
    assert [names[-1:] for names in reached] == [[], *([f"step-{n:06d}"] for n in (3, 6, 9, 12))]
    assert in_process(processes, killed_run.run, values) == 0
    assert_same(load_file(tmp_path / "tuner.safetensors"), undisturbed[kind])
    left = sorted(p.name for p in (tmp_path / "tuner.run" / "checkpoints").iterdir())
    assert left == ["step-000009", "step-000012"]  # `keep`, and nothing of the interrupted save


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_exits_with_0(
    number, undisturbed, tmp_path, base_folder, three_pictures, processes
):
    """Ctrl+C to the command as a user has typed it; the signal of a scheduler."""
    values = long_values(plain_values(base_folder, three_pictures), tmp_path, "sc")
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(values))
    events = tmp_path / "tuner.run" / "events.jsonl"
    process = typed(config) if number == signal.SIGINT else warm_start(config)
    wait_for(lambda: events.exists() and '"step": 1,' in events.read_text(), process)
    os.kill(process.pid, number)
    assert process.wait(120) == 0
    stopped = [e for e in map(json.loads, events.read_text().splitlines()) if e["event"] == "stopped"]
    assert [e["reason"] for e in stopped] == [signal.Signals(number).name]
    assert in_process(processes, killed_run.run, values) == 0
    assert_same(load_file(tmp_path / "tuner.safetensors"), undisturbed["sc"])


def test_two_processes_equal_one_with_twice_the_batch(tmp_path, base_folder, three_pictures, processes):
    """Two CPU processes that exchange gradients by gloo; the files of both show that they stayed identical.

    Each way gives the same bits every time.  Between them sums run in another order: gradients of up to 4e-3 differ by
    4e-8 at most.  AdamW divides each by its own size, which would make a part of a whole step of that, another one on
    each processor, where a gradient is next to nothing; with an eps of 1e-3 it is 4e-5 of a step everywhere.
    """
    found, rate = {}, 5e-3
    for count in (1, 2):
        folder = tmp_path / str(count)
        values = long_values(plain_values(base_folder, three_pictures), folder, "csc")
        values["loop"] |= {"batch": 4 // count, "steps": 4, "accumulate": 2, "learning_rate": rate, "ema": None}
        values["loop"]["optimizer_arguments"] = {"eps": 1e-3}
        values["previews"] = values["validation"] = {"every": 0}
        folder.mkdir()
        config = folder / "run.yaml"
        config.write_text(json.dumps(values))
        if count == 1:
            assert in_process(processes, ranked_run.main, config, folder) == 0
        else:
            launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
            done = subprocess.run(
                [sys.executable, "-m", *launch, str(HERE / "ranked_run.py"), str(config), str(folder)],
                cwd=ROOT,
                env={**environment(), "ACCELERATE_USE_CPU": "true"},
                timeout=300,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-2000:]
        found[count] = [load_file(path) for path in sorted(folder.glob("rank-*.safetensors"))]
    (one,), (first, second) = found[1], found[2]
    assert_same(first, second)
    for name, tensor in one.items():
        torch.testing.assert_close(first[name], tensor, atol=1e-3 * rate, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different
    assert any(t.abs().max() > 5e-4 for n, t in expected.items() if n.endswith("up.weight"))  # it did learn


def warm_start(config: Path) -> warm.Started:
    code = "import sys; from training.__main__ import main; sys.exit(main(['train', sys.argv[1]]))"
    with open(config.with_suffix(".log"), "wb") as log:
        return warm.Started(["-c", code, str(config)], stdout=log)


def typed(config: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "training", "train", str(config)], cwd=ROOT, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def wait_for(condition, process: subprocess.Popen | warm.Started, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)
