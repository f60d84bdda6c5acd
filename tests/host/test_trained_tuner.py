"""A tuner that the trainer made gives the same images through diffusers and through the host's U-Net and VAE.

The base is a checkpoint file with the host's own key names.  The trainer's command trains on it in a process that knows
no host; both sides sample with the same noise, sigmas and text states.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy.supported_models
import pytest
import torch
import warm
from comfy.ldm.models.autoencoder import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from small_model import STEPS, TEXT_WIDTH, noise_of, picture, prompt, randomise, relative, sample, unet_config
from small_tuners import apply_csc, apply_sc
from transformers import CLIPTextConfig, CLIPTextModel

GUIDANCE, PREVIEW_STEPS = 3.0, 8
EFFECT = 0.02  # a tuner that changes less would prove nothing
_VAE = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32}
_VAE |= {"ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}


@pytest.fixture(scope="module")
def model():
    """The small SD 1.5 of the other tests with eight attention heads, as all of that family have."""
    shape = unet_config() | {"num_heads": 8}
    config = comfy.supported_models.SD15(shape)
    config.unet_config |= shape
    made = config.get_model({}, "", device=torch.device("cpu"))
    randomise(made.diffusion_model, 0)
    return comfy.model_patcher.ModelPatcher(made, torch.device("cpu"), torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    """A checkpoint file with the model's weights, a tokenizer for it, and three pictures with captions."""
    root = tmp_path_factory.mktemp("trained")
    words = _write_tokenizer(root / "tokenizer")
    shape = {"hidden_size": TEXT_WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    text = CLIPTextModel(CLIPTextConfig(vocab_size=words, **shape, **ends))
    vae = randomise(AutoencoderKL(ddconfig=_VAE, embed_dim=4), 1)
    state = {"model.diffusion_model." + k: v for k, v in model.model.diffusion_model.state_dict().items()}
    state |= {"first_stage_model." + k: v for k, v in vae.state_dict().items()}
    for name, tensor in randomise(text, 2).state_dict().items():
        name = name if name.startswith("text_model.") else "text_model." + name
        state["cond_stage_model.transformer." + name] = tensor
    save_file({k: v.contiguous() for k, v in state.items()}, root / "base.safetensors")
    (root / "pictures").mkdir()
    for seed in range(3):
        pixels = (picture(height=64, width=64, seed=seed)[0] * 255).byte().numpy()
        Image.fromarray(pixels).save(root / f"pictures/{seed}.png")
        (root / f"pictures/{seed}.txt").write_text(f"picture {seed}")
    return root


@pytest.fixture(scope="module")
def trained(model, folder) -> Path:
    """The folder after two tuners were trained, and both sampled through diffusers, in one process."""
    runs = []
    for kind in ("sc", "csc"):
        (folder / f"{kind}.yaml").write_text(json.dumps(_config(folder, kind)))
        save_file(_problem(model, kind), folder / f"{kind}.problem")
        runs += [folder / f"{kind}.yaml", folder / f"{kind}.problem", folder / f"{kind}.latents"]
    # As code, so that modules are looked for in the working folder, not in that of this test.
    code = Path(__file__).with_name("diffusers_side.py").read_text("utf-8")
    done = warm.run_code(code, str(folder / "base.safetensors"), *map(str, runs))
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


@pytest.mark.parametrize("kind", ["sc", "csc"])
def test_diffusers_and_host_agree(pack, model, trained, kind):
    expected = load_file(trained / f"{kind}.latents")
    edited = _edited(pack, model, trained, kind)
    plain, found = sample(model, cfg=GUIDANCE), sample(edited, cfg=GUIDANCE)
    assert relative(model.model.process_latent_in(plain), expected["plain"]) < 1e-3
    assert relative(model.model.process_latent_in(found), expected["edited"]) < 1e-3
    assert relative(found, plain) > EFFECT
    images = [(_vae(trained).decode(latents) / 2 + 0.5).clamp(0, 1) for latents in (plain, found)]
    assert relative(images[1], expected["images"]) < 1e-3
    assert relative(images[1], images[0]) > EFFECT


@pytest.mark.parametrize("kind", ["sc", "csc"])
@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_a_preview_is_what_the_host_samples(pack, model, trained, kind, sampler):
    """docs/training.md: KSampler with scheduler sgm_uniform.  Timesteps are whole numbers in diffusers, not here."""
    edited = _edited(pack, model, trained, kind)
    found = sample(edited, cfg=GUIDANCE, steps=PREVIEW_STEPS, sampler=sampler, scheduler="sgm_uniform")
    expected = load_file(trained / f"{kind}.latents")["preview"]
    assert relative(model.model.process_latent_in(found), expected) < 0.01


def _edited(pack, model, trained: Path, kind: str):
    """The host's model with the tuner that was trained."""
    path = trained / f"{kind}.safetensors"
    tuner = pack.managed.ManagedTuner(pack.core.load_tuner(path), path.name, str(path))
    if kind == "sc":
        return apply_sc(pack, model, tuner)
    return apply_csc(pack, model, pack.control.SCEditControl(tuner), picture())


def _vae(folder: Path) -> AutoencoderKL:
    """The checkpoint's VAE as the host builds it."""
    vae, prefix = AutoencoderKL(ddconfig=_VAE, embed_dim=4), "first_stage_model."
    state = load_file(folder / "base.safetensors")
    vae.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return vae.eval()


def _config(folder: Path, kind: str) -> dict:
    """Three steps at a rate so high that they can be seen."""
    config = {
        "base": str(folder / "base.safetensors"),
        "tokenizer": str(folder / "tokenizer"),
        "output": str(folder / f"{kind}.safetensors"),
        "tuner": {"kind": kind} | ({} if kind == "sc" else {"stem_width": 32}),
        "data": {"folder": str(folder / "pictures"), "resolution": 64},
        "loop": {"steps": 3, "batch": 2, "warmup": 0, "precision": "fp32", "learning_rate": 0.02},
        "previews": {"every": 0},
        "validation": {"every": 0},
        "tensorboard": False,
    }
    if kind == "csc":
        config["data"]["condition"] = {"type": "canny"}
    return config


def _problem(model, kind: str) -> dict[str, torch.Tensor]:
    """What `sample` starts from (noise, text states) with the host's own sigmas and timesteps."""
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    problem = {
        "start": sampling.noise_scaling(sigmas[0], noise_of(), torch.zeros(()), max_denoise=True),
        "cond": prompt(1)[0][0],
        "uncond": prompt(2)[0][0],
        "sigmas": sigmas,
        "timesteps": sampling.timestep(sigmas[:-1]),
        "guidance": torch.tensor(GUIDANCE),
        "noise": noise_of(),
        "preview_steps": torch.tensor(PREVIEW_STEPS),
    }
    if kind == "csc":
        problem["hint"] = picture().movedim(-1, 1)
    return {k: v.clone().contiguous() for k, v in problem.items()}


def _write_tokenizer(folder: Path) -> int:
    """CLIP's tokenizer files with printable letters alone; gives the number of words."""
    letters = [chr(i) for i in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(tokens)
