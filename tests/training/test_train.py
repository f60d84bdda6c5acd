"""Two real steps on a tiny random model: a tuner comes out, its file tells what it is, and it works under `attach`."""

from __future__ import annotations

import json

import pytest
import torch

from scedit_core import CSCTuner, SCTuner, load_tuner
from scedit_core.diffusers import attach
from scedit_core.fitting.base import TextStates
from scedit_core.fitting.step import TrainingStep
from training.bases.loading import load_base
from training.config_file import parse_config
from training.loop import train

pytestmark = pytest.mark.usefixtures("unwatched")


def test_style_trains_saves_and_samples(values):
    path = train(parse_config(values))
    tuner = load_tuner(path)
    assert isinstance(tuner, SCTuner)
    assert all(adapter.up.weight.abs().max() > 0 for adapter in tuner.tuners.values())
    base = load_base(values["base"])
    arguments = {"prompt": ["a red star"], "height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = base.pipeline(**arguments, latents=latents).images
    with attach(base.unet, [(tuner, 1.0, None)]):
        edited = base.pipeline(**arguments, latents=latents).images
    with attach(base.unet, [(tuner, 0.0, None)]):
        zero = base.pipeline(**arguments, latents=latents).images
    assert torch.isfinite(edited).all()
    assert not torch.equal(plain, edited)
    assert torch.equal(plain, zero)


def test_control_trains_with_full_metadata(control_values):
    path = train(parse_config(control_values))
    tuner = load_tuner(path)
    assert isinstance(tuner, CSCTuner)
    told = tuner.metadata
    assert json.loads(told["scedit.condition"]) == {
        **{"type": "canny", "low": 100.0, "high": 200.0, "blur": 0.0},
        **{"fitting": "lines", "nothing": "black"},
    }
    assert told["scedit.kind"] == "csc"
    assert told["scedit.prediction"] == "v_prediction"
    assert told["scedit.resolution"] == "64"
    assert told["modelspec.sai_model_spec"] == "1.0.1"
    assert json.loads(told["scedit.channels"]) == [32] * 9
    assert json.loads(told["scedit.training"])["steps"] == 2
    hint = torch.rand(1, 3, 64, 64)
    base = load_base(control_values["base"])
    with torch.no_grad(), attach(base.unet, [(tuner, 1.0, hint)]):
        out = base.unet(torch.randn(2, 4, 8, 8), 500, torch.randn(2, 16, 128)).sample
    assert torch.isfinite(out).all()


def test_same_seed_same_weights(values, tmp_path):
    first = load_tuner(train(parse_config(values)))
    values["output"] = str(tmp_path / "again.safetensors")
    second = load_tuner(train(parse_config(values)))
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_accumulation_sees_the_same_images(values):
    values["loop"] |= {"accumulate": 2, "batch": 1}
    assert train(parse_config(values)).is_file()


def test_half_precision_base_keeps_float32_tuners(values):
    values["loop"]["precision"] = "bf16"
    assert load_tuner(train(parse_config(values))).dtype == torch.float32


@pytest.mark.parametrize("kind", ["sc", "csc"])
def test_encoder_has_no_graph_and_all_parameters_learn(base_folder, kind):
    base = load_base(base_folder)
    torch.manual_seed(0)
    tuner = SCTuner(base.layout) if kind == "sc" else CSCTuner(base.layout, stem_width=32)
    step = TrainingStep(base, tuner)
    optimizer = torch.optim.Adam(tuner.parameters(), lr=1e-2)
    for _ in range(3):
        hints = torch.rand(1, 3, 64, 64) if kind == "csc" else None
        out = step(torch.randn(1, 4, 8, 8), torch.tensor([500]), hints, TextStates(torch.randn(1, 16, 128)), None)
        optimizer.zero_grad()
        out.square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tuner.parameters())
    assert all(p.grad is None for p in base.unet.parameters())


def test_a_graph_in_the_encoder_is_refused(base_folder):
    base = load_base(base_folder)
    step = TrainingStep(base, SCTuner(base.layout))
    noisy = torch.randn(1, 4, 8, 8).requires_grad_()
    with pytest.raises(RuntimeError, match="expected no graph before the decoder"):
        step(noisy, torch.tensor([500]), None, TextStates(torch.randn(1, 16, 128)), None)
