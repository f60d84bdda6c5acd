"""fp16: updates whose gradient does not fit are counted, change nothing, and end the run where no other follows."""

from __future__ import annotations

import io

import pytest
import safetensors.torch
import torch
from rich.console import Console

from scedit_core import load_tuner
from scedit_core.errors import TrainingError
from scedit_core.fitting.event_log import read_events
from training.config_file import parse_config
from training.loop import train

pytestmark = pytest.mark.usefixtures("unwatched")


def loud_base(tiny, folder, factor):
    """A tiny base whose last layer is `factor` times as strong, so that gradients through it are as well."""
    tiny.write_tiny_base(folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["conv_out.weight"] *= factor
    safetensors.torch.save_file(weights, file, {"format": "pt"})
    return folder


@pytest.fixture
def half(values, tiny, tmp_path):
    """A function: the values of a run in fp16 on a base of that loudness."""

    def write(factor, steps):
        values["base"] = str(loud_base(tiny, tmp_path / "loud", factor))
        values["loop"] |= {"precision": "fp16", "steps": steps, "schedule": "linear", "ema": 0.5, "learning_rate": 1e-3}
        values["saving"] = {"every": 1, "keep": 100}
        return parse_config(values)

    return write


def steps_of(config):
    return [e for e in read_events(config.run_folder / "events.jsonl") if e["event"] == "step"]


@pytest.mark.parametrize("steps", [6, 40])
def test_a_run_whose_updates_are_all_skipped_ends_with_a_sentence(half, steps):
    config = half(4e4, steps)  # at 2e4 the 20th scale is still too high, at 1e4 it fits
    with pytest.raises(TrainingError, match=r"expected gradients that fit into fp16.*bf16 or fp32") as raised:
        train(config, Console(quiet=True))
    assert ("all updates" in str(raised.value)) == (steps == 6)
    assert not config.output.exists()
    assert len(steps_of(config)) == (5 if steps == 6 else 19)


def test_skipped_updates_are_counted_and_neither_schedule_nor_mean_steps(half):
    config = half(1e3, 30)
    out = io.StringIO()
    train(config, Console(file=out, width=80))
    told = steps_of(config)
    skipped = told[-1]["skipped"]
    assert 0 < skipped < 20, skipped
    # linear, without warmup: the rate of each update follows from those that were made before it, not from its number
    made, expected = 0, []
    for i, step in enumerate(told):
        expected.append(1e-3 * (1 - made / 30))
        made += step["skipped"] == (told[i - 1]["skipped"] if i else 0)
    assert [step["learning_rate"] for step in told] == pytest.approx(expected, rel=1e-6)
    assert "updates skipped" in out.getvalue()
    states = sorted((config.run_folder / "checkpoints").glob("step-*"))
    first = torch.load(states[0] / "state.pt", weights_only=True)
    last = torch.load(states[-1] / "state.pt", weights_only=True)
    assert tuple(first["parts"]["skipped"]) == (1, 1)
    assert last["parts"]["ema"]["optimization_step"] == 30 - skipped
    assert load_tuner(config.output).kind == "sc"
    late = config.model_copy(
        update={
            "output": config.output.with_name("late.safetensors"),
            "saving": config.saving.model_copy(update={"every": 100}),
        }
    )
    train(late, Console(quiet=True))  # where nothing is saved on the way, it is read late which were skipped
    keys = ("step", "loss", "grad_norm", "learning_rate", "skipped")
    assert str([[e[k] for k in keys] for e in steps_of(late)]) == str([[e[k] for k in keys] for e in told])
