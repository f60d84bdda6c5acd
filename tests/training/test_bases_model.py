"""What a base model predicts, and what the trainer asks of it: fingerprints, text states, the U-Net's inputs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, PNDMScheduler
from safetensors.torch import load_file

from training.bases import base_model
from training.bases.base_model import TextStates
from training.bases.checkpoint_header import CheckpointHeader
from training.bases.loading import load_base
from training.bases.recognising import prediction_of, recognise

_spec = importlib.util.spec_from_file_location("small_checkpoints", Path(__file__).with_name("small_checkpoints.py"))
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)

BIAS = "model.diffusion_model.output_blocks.{}.1.transformer_blocks.0.norm1.bias"


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Path:
    """A ComfyUI checkout with a tokenizer."""
    root = tmp_path_factory.mktemp("host") / "ComfyUI"
    small.write_tokenizer(root / "comfy/sd1_tokenizer")
    return root


@pytest.fixture(scope="module")
def pipelines(host) -> dict:
    return {family: small.small_pipeline(family, host / "comfy/sd1_tokenizer") for family in small.FAMILIES}


@pytest.fixture
def write(host, pipelines):
    """Writes a checkpoint of a family, with tensors changed, and gives its path."""

    def written(family: str, change: dict | None = None, metadata: dict | None = None, name: str = "x") -> Path:
        state = small.checkpoint_weights(pipelines[family]) | (change or {})
        return small.write_checkpoint(host / f"models/{name}.safetensors", state, metadata)

    return written


@pytest.mark.parametrize(
    ("family", "change", "metadata", "expected"),
    [
        ("sd15", {}, {}, "epsilon"),
        ("sdxl", {}, {}, "epsilon"),
        ("sd2", {}, {}, "epsilon"),
        ("sd2", {BIAS.format(7): torch.randn(32) * 0.2}, {}, "v_prediction"),
        ("sd15", {BIAS.format(11): torch.randn(32) * 0.2}, {}, "epsilon"),
        ("sdxl", {"v_pred": torch.zeros(0)}, {}, "v_prediction"),
        ("sdxl", {}, {"modelspec.prediction_type": "v"}, "v_prediction"),
        ("sd2", {BIAS.format(7): torch.randn(32) * 0.2}, {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ("sd15", {}, {"modelspec.prediction_type": "something new"}, "epsilon"),
    ],
)
def test_prediction_is_told_from_the_file(write, family, change, metadata, expected):
    header = CheckpointHeader(write(family, change, metadata))
    assert recognise(header).family == family
    assert prediction_of(header, family) == expected


def test_prediction_can_be_overridden(write):
    path = write("sd2", {BIAS.format(7): torch.randn(32) * 0.2})
    assert load_base(path).prediction == "v_prediction"
    assert load_base(path, prediction="epsilon").prediction == "epsilon"


def test_zero_terminal_snr_is_told_from_the_file(write):
    base = load_base(write("sdxl", {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}))
    assert base.scheduler.config.rescale_betas_zero_snr
    assert base.scheduler.alphas_cumprod[-1] < 1e-6
    assert load_base(write("sdxl")).scheduler.alphas_cumprod[-1] == pytest.approx(0.00466, rel=1e-2)


@pytest.mark.parametrize("kind", [PNDMScheduler, EulerDiscreteScheduler])
def test_any_scheduler_of_a_folder_trains(pipelines, tmp_path, kind):
    pipeline = pipelines["sd15"]
    whole = dict(pipeline.components)
    whole["scheduler"] = kind.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    type(pipeline)(**whole, requires_safety_checker=False).save_pretrained(tmp_path / "model")
    base = load_base(tmp_path / "model")
    assert base.prediction == "v_prediction"
    latents, noise, at = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([700])
    alpha = base.scheduler.alphas_cumprod[700]
    torch.testing.assert_close(alpha, pipeline.scheduler.alphas_cumprod[700])
    torch.testing.assert_close(
        base.scheduler.add_noise(latents, noise, at), alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    )
    assert base.scheduler.get_velocity(latents, noise, at).isfinite().all()


def test_fingerprints_follow_the_weights_and_nothing_else(write):
    vae, text = (
        "first_stage_model.decoder.conv_in.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    )
    path = write("sd15")
    state = load_file(path)

    def nudged(name: str) -> Path:
        tensor = state[name].clone()
        tensor[-1] += 1e-6
        return write("sd15", {name: tensor})

    def fingerprints(at: Path) -> tuple[str, str]:
        base = load_base(at)
        return base.vae_fingerprint, base.text_fingerprint

    plain = fingerprints(path)
    os.utime(path, (1, 1))
    assert fingerprints(path.rename(path.with_name("moved.safetensors"))) == plain
    assert fingerprints(write("sd15", {BIAS.format(11): torch.zeros(32)})) == plain
    of_vae, of_text = fingerprints(nudged(vae)), fingerprints(nudged(text))
    assert of_vae[0] != plain[0]
    assert of_vae[1] == plain[1]
    assert of_text[0] == plain[0]
    assert of_text[1] != plain[1]
    assert load_base(path.with_name("moved.safetensors"), vae_dtype=torch.bfloat16).vae_fingerprint != plain[0]


def test_text_states_by_rows():
    text = TextStates(torch.arange(12.0).reshape(3, 2, 2), torch.arange(3.0)[:, None])
    assert len(text) == 3
    for index in ([2, 0, 2], torch.tensor([2, 0, 2]), (2, 0, 2)):
        rows = text.rows(index)
        assert rows.pooled.flatten().tolist() == [2, 0, 2]
        assert torch.equal(rows.states[1], text.states[0])
    assert len(text.rows(slice(1, None))) == 2
    assert text.to("cpu", torch.bfloat16).pooled.dtype == torch.bfloat16
    assert TextStates(text.states).rows([0]).pooled is None


def test_unet_inputs_of_sdxl_need_sizes_and_keep_them_exact(write):
    base = load_base(write("sdxl"), torch.bfloat16)
    text = base.encode_captions(["a red star"])
    with pytest.raises(ValueError, match="sizes"):
        base.unet_inputs(text, None)
    inputs = base.unet_inputs(text, torch.tensor([[1023, 1021, 3, 5, 1024, 1024]]))
    assert inputs["encoder_hidden_states"].dtype == torch.bfloat16
    assert inputs["added_cond_kwargs"]["time_ids"].tolist() == [[1023, 1021, 3, 5, 1024, 1024]]
    with torch.no_grad():
        out = base.unet(torch.randn(1, 4, 8, 8, dtype=torch.bfloat16), 5, **inputs).sample
    assert out.isfinite().all()


def test_encoders_can_be_released_and_restored(write):
    base = load_base(write("sdxl"))
    before = base.encode_captions(["a"]).pooled
    base.release_encoders()
    base.restore_encoders()
    assert torch.equal(base.encode_captions(["a"]).pooled, before)


def test_tiny_autoencoder_has_no_deviation(base_folder):
    base = load_base(base_folder)
    mean, std = base.encode_moments(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert mean.shape == std.shape == (2, 4, 8, 8)
    assert std.abs().max() == 0
    decoded = base.decode(mean)
    assert decoded.shape == (2, 3, 64, 64)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_long_captions_can_be_told(write):
    base = load_base(write("sd15"))
    lengths = base.caption_lengths(["", "a red star", "star " * 100])
    assert lengths == [2, 5, 102]
    assert base.caption_limit == 77


def test_skips_need_no_decoder_and_a_prediction_brings_it_back(base_folder, monkeypatch):
    """The decoder rests on a device without numbers, where whatever touches it fails."""
    base = load_base(base_folder)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([500]), base.encode_captions(["a fish"]), None
    before = base.skips(*inputs)
    base.rest_decoder()  # a CPU gains nothing
    base.predict(*inputs)
    monkeypatch.setattr(base_model, "RESTING", torch.device("meta"))
    base.rest_decoder()
    resting = {name.split(".")[0] for name, p in base.unet.named_parameters() if p.is_meta}
    assert resting == {"mid_block", "up_blocks", "conv_norm_out", "conv_out"}
    assert all(map(torch.equal, base.skips(*inputs), before))
    with pytest.raises(NotImplementedError, match="out of meta tensor"):
        base.predict(*inputs)
