"""A folder and a single file with the same weights are the same base model, loaded without a socket."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path

import psutil  # accelerate needs it too
import pytest
import torch
from safetensors.torch import load_file, save_file

from training.bases.checkpoint_header import CheckpointHeader
from training.bases.loading import load_base, text_dtype
from training.bases.recognising import recognise
from training.bases.single_file import configs_of

_spec = importlib.util.spec_from_file_location("small_checkpoints", Path(__file__).with_name("small_checkpoints.py"))
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)

CAPTIONS = ["a red star!", "", "Star, star; " * 40]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever opens a socket or asks for an address fails."""

    def refused(*_args, **_options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture(scope="module", params=small.FAMILIES)
def pair(request, tmp_path_factory):
    """Family, pipeline, folder and single file; the file lies in a ComfyUI checkout, where its tokenizer is found."""
    root = tmp_path_factory.mktemp(request.param)
    tokenizer = small.write_tokenizer(root / "ComfyUI/comfy/sd1_tokenizer")
    pipeline = small.small_pipeline(request.param, tokenizer)
    pipeline.save_pretrained(root / "folder")
    state = small.checkpoint_weights(pipeline)
    path = small.write_checkpoint(root / "ComfyUI/models/checkpoints/small.safetensors", state)
    return request.param, pipeline, root / "folder", path


def outputs(base) -> dict[str, torch.Tensor]:
    """All that a base model computes, from weights that lie in memory as torch lays them, and not as a file does.

    Some kernels round otherwise where weights begin at odd addresses, and these tests compare bits.
    """
    for part in base.pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for p in part.parameters():
                p.data = p.data.clone()
    draw = torch.Generator().manual_seed(0)
    text = base.encode_captions(CAPTIONS)
    images = torch.rand(1, 3, 64, 64, generator=draw) * 2 - 1
    mean, std = base.encode_moments(images)
    sizes = torch.tensor([[64, 64, 0, 0, 64, 64]] * 3) if base.needs_sizes else None
    noisy = torch.randn(3, 4, 8, 8, generator=draw).to(base.unet.dtype)
    with torch.no_grad():
        predicted = base.unet(noisy, torch.tensor([10, 500, 999]), **base.unet_inputs(text, sizes)).sample
    found = {"states": text.states, "mean": mean, "std": std, "decoded": base.decode(mean), "predicted": predicted}
    return found | ({"pooled": text.pooled} if base.needs_sizes else {})


def test_folder_and_file_agree_bit_for_bit(pair, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    family, _, folder, path = pair
    from_folder, from_file = load_base(folder), load_base(path)
    expected, found = outputs(from_folder), outputs(from_file)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.isfinite(tensor).all(), name
        assert tensor.std() > 1e-3, name
        assert torch.equal(found[name], tensor), name
    assert from_file.layout == from_folder.layout
    assert from_file.needs_sizes == (family == "sdxl")
    assert from_file.prediction == from_folder.prediction == "epsilon"
    assert from_file.vae_fingerprint == from_folder.vae_fingerprint
    assert from_file.text_fingerprint == from_folder.text_fingerprint
    assert torch.equal(from_file.scheduler.alphas_cumprod, from_folder.scheduler.alphas_cumprod)


def test_text_states_are_what_each_family_reads(pair):
    """SD 1.5: the last layer, normed; SD 2.x: the one before, normed; SDXL: the one before, not normed."""
    family, pipeline, _, path = pair
    found = load_base(path).encode_captions(CAPTIONS)
    expected = []
    for second in ("", "_2") if family == "sdxl" else ("",):
        encoder, tokenizer = getattr(pipeline, "text_encoder" + second), getattr(pipeline, "tokenizer" + second)
        ids = tokenizer(CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        assert tokenizer.convert_ids_to_tokens(ids[0])[4] == "!</w>"  # no padding, though that is written alike
        with torch.no_grad():
            out = encoder(ids, output_hidden_states=True)
        expected.append(out.hidden_states[-2] if family == "sdxl" else out.last_hidden_state)
        last = encoder.text_model if hasattr(encoder, "text_model") else encoder
    assert torch.equal(found.states, torch.cat(expected, -1))
    if family == "sdxl":
        end = (ids == tokenizer.eos_token_id).int().argmax(-1)
        normed = last.final_layer_norm(out.hidden_states[-1])[torch.arange(3), end]
        torch.testing.assert_close(found.pooled, normed @ encoder.text_projection.weight.T)
    else:
        assert found.pooled is None
    padded = ids[1, 2:].unique().tolist()
    assert padded == [tokenizer.eos_token_id if family == "sd15" else tokenizer.convert_tokens_to_ids("!")]


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cuda", torch.bfloat16, torch.float16),
        ("cuda", torch.float16, torch.float16),
        ("cuda", torch.float32, torch.float32),
        ("cpu", torch.bfloat16, torch.float32),
    ],
)
def test_text_encoders_are_in_half_precision_on_a_gpu_alone(device, dtype, expected):
    assert text_dtype(dtype, torch.device(device)) is expected


def test_half_precision_and_devices(pair):
    _, _, folder, path = pair
    for each in (folder, path):
        base = load_base(each, torch.bfloat16, vae_dtype=torch.bfloat16)
        assert base.unet.dtype == base.vae.dtype == torch.bfloat16
        assert base.pipeline.text_encoder.dtype == torch.float32
    assert not any(p.requires_grad for m in (base.unet, base.vae, base.pipeline.text_encoder) for p in m.parameters())
    assert not any(m.training for m in (base.unet, base.vae, base.pipeline.text_encoder))
    exact = load_base(path)
    found, expected = outputs(base), outputs(exact)
    for name in ("mean", "decoded", "predicted"):
        assert found[name].shape == expected[name].shape
        assert (found[name].float() - expected[name]).norm() / expected[name].norm() < 0.05, name
    assert base.vae_fingerprint != exact.vae_fingerprint


def test_older_names_and_stray_tensors(pair, tmp_path):
    """Files without "text_model.", SD 2.x in sgm's place, EMA weights, position_ids and flags in strange dtypes."""
    family, _, folder, path = pair
    state = load_file(path)
    if family == "sd15":
        state = {k.replace("transformer.text_model.", "transformer."): v for k, v in state.items()}
        state["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77).float()[None]
    elif family == "sd2":
        state = {k.replace("cond_stage_model.model.", "conditioner.embedders.0.model."): v for k, v in state.items()}
    state |= {f"model_ema.{i}": torch.zeros(1) for i in range(120)}
    state |= {"betas": torch.zeros(1000), "cond_stage_model.logit_scale": torch.tensor(1.0)}
    old = small.write_checkpoint(tmp_path / "ComfyUI/models/old.safetensors", state)
    tokenizer = path.parents[2] / "comfy/sd1_tokenizer"
    expected, found = outputs(load_base(folder)), outputs(load_base(old, tokenizer=tokenizer))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float16, torch.bfloat16])
def test_files_in_any_precision(pair, tmp_path, stored):
    _, _, _, path = pair
    state = {name: tensor.to(stored) for name, tensor in load_file(path).items()}
    other = small.write_checkpoint(tmp_path / "other.safetensors", state)
    base = load_base(other, torch.bfloat16, tokenizer=path.parents[2] / "comfy/sd1_tokenizer")
    assert {p.dtype for p in base.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in base.vae.parameters()} == {torch.float32}
    expected = state["model.diffusion_model.out.2.weight"].to(torch.bfloat16)
    assert torch.equal(base.unet.conv_out.weight, expected)


def test_folder_of_fp16_files_and_without_tokenizer(pair, tmp_path):
    family, pipeline, folder, path = pair
    variant = tmp_path / "variant"
    pipeline.save_pretrained(variant, variant="fp16")
    text = variant / "text_encoder/model.fp16.safetensors"  # as older versions of transformers wrote it
    save_file(small.clip_names(load_file(text)) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, text)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(variant / name, ignore_errors=True)
    base = load_base(variant, tokenizer=path.parents[2] / "comfy/sd1_tokenizer")
    assert base.text_fingerprint == load_base(folder).text_fingerprint
    assert base.name == "variant"
    assert base.needs_sizes == (family == "sdxl")


def test_released_shapes_give_the_released_configs():
    """The true SD 1.5, SD 2.1 and SDXL U-Nets, VAEs and text encoders, without their weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    for family in small.FAMILIES:
        configs = small.released_configs(family)
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(configs["unet"])
            state = small.prefixed("model.diffusion_model.", small.unet_names(unet.state_dict(), unet.config))
            vae = AutoencoderKL.from_config(configs["vae"])
            state |= small.prefixed("first_stage_model.", small.vae_names(vae.state_dict()))
            text = CLIPTextConfig(**configs["text_encoder"])
            if family == "sd2":
                text.num_hidden_layers += 1
                weights = CLIPTextModelWithProjection(text).state_dict()
                state |= small.prefixed("cond_stage_model.model.", small.open_clip_names(weights))
            else:
                place = "cond_stage_model" if family == "sd15" else "conditioner.embedders.0"
                state |= small.prefixed(f"{place}.transformer.", small.clip_names(CLIPTextModel(text).state_dict()))
            if family == "sdxl":
                second = CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"])).state_dict()
                state |= small.prefixed("conditioner.embedders.1.model.", small.open_clip_names(second))
        header = CheckpointHeader.__new__(CheckpointHeader)
        header.path, header.metadata = Path("released.safetensors"), {"modelspec.prediction_type": "epsilon"}
        header.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        recognised = recognise(header)
        assert recognised.family == family
        found = configs_of(header, recognised)
        found["scheduler"].pop("rescale_betas_zero_snr")
        if family == "sd2":
            found["text_encoder"]["projection_dim"] = configs["text_encoder"]["projection_dim"]
        assert found == configs


def test_full_size_sd15_loads_and_predicts(tmp_path):
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(tmp_path).free
    if memory < 7 * 2**30 or disk < 4 * 2**30:
        pytest.skip("FULL-SIZE SD 1.5 NOT TESTED: less than 7 GiB of memory or 4 GiB of disk free")
    path = small.write_full_sd15(tmp_path / "v1-5.safetensors")
    tokenizer = small.write_tokenizer(tmp_path / "tokenizer")
    try:
        base = load_base(path, torch.bfloat16, tokenizer=tokenizer)
        assert base.layout.title == "SD 1.5"
        assert base.name == "v1-5"
        assert sum(p.numel() for p in base.unet.parameters()) == 859_520_964
        with torch.no_grad():
            inputs = base.unet_inputs(base.encode_captions(["a red star"]), None)
            out = base.unet(torch.randn(1, 4, 8, 8, dtype=torch.bfloat16), 500, **inputs).sample
        assert torch.isfinite(out).all()
    finally:
        path.unlink()
