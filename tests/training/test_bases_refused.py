"""What is no base model, or a broken one: one sentence that says what it is and what to do."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from scedit_core.errors import BaseModelError
from training.bases import tokenizer_files
from training.bases.loading import load_base

_spec = importlib.util.spec_from_file_location("small_checkpoints", Path(__file__).with_name("small_checkpoints.py"))
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Path:
    """A ComfyUI checkout with small checkpoints of each family and a tokenizer."""
    root = tmp_path_factory.mktemp("host") / "ComfyUI"
    tokenizer = small.write_tokenizer(root / "comfy/sd1_tokenizer")
    for family in small.FAMILIES:
        state = small.checkpoint_weights(small.small_pipeline(family, tokenizer))
        small.write_checkpoint(root / f"models/checkpoints/{family}.safetensors", state)
    return root


def checkpoint(host: Path, family: str = "sd15") -> Path:
    return host / f"models/checkpoints/{family}.safetensors"


def refusal(path: Path, **options) -> str:
    """The sentence with which `path` is refused."""
    with pytest.raises(BaseModelError) as caught:
        load_base(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    assert "found" in message
    return message


UNET = "model.diffusion_model."
ODD_FILES = {
    "a LoRA": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 8)},
    "LoRA": {"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (4, 8)},
    "a tuner": {"tuners.0.down.weight": (4, 8)},
    "a ControlNet": {"control_model.input_blocks.0.0.weight": (8, 4, 3, 3)},
    "Flux": {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (8, 8)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (8, 8)},
    "a VAE alone": {"encoder.down.0.block.0.conv1.weight": (8, 8, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)},
    "a diffusers folder": {"down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)},
    "a text encoder alone": {"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)},
    "a textual inversion": {"emb_params": (2, 8)},
    "9 input channels": {UNET + "input_blocks.0.0.weight": (8, 9, 3, 3)},
    "8 input channels": {UNET + "input_blocks.0.0.weight": (8, 8, 3, 3)},
    "3 input channels": {UNET + "input_blocks.0.0.weight": (8, 3, 3, 3)},
    "without a VAE": {UNET + "input_blocks.0.0.weight": (8, 4, 3, 3)},
    "'something'": {"something": (1,)},
    "without tensors": {},
}


@pytest.mark.parametrize("words", ODD_FILES)
def test_other_files_are_named(tmp_path, words):
    path = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in ODD_FILES[words].items()}, path)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("sdxl", {"edm_mean": torch.zeros(4)}, "EDM"),
        ("sdxl", {"edm_vpred.sigma_max": torch.zeros(1)}, "EDM"),
        ("sd15", {UNET + "out.2.scale_weight": torch.ones(1)}, "quantised"),
        ("sd15", {UNET + "input_blocks.1.0.time_stack.x": torch.ones(1)}, "video"),
        ("sd2", {UNET + "label_emb.0.0.weight": torch.ones(8, 8)}, "unCLIP"),
    ],
)
def test_variants_that_cannot_be_trained(host, tmp_path, family, change, words):
    path = tmp_path / "variant.safetensors"
    save_file(load_file(checkpoint(host, family)) | change, path)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("family", "without", "words"),
    [
        ("sdxl", "conditioner.embedders.0.transformer.", "one of its text encoders"),
        ("sd15", "cond_stage_model.", "without a text encoder"),
        ("sd15", "first_stage_model.encoder.", "without a VAE"),
        ("sd15", UNET + "middle_block.1.", "a middle block with attention"),
        ("sd15", UNET + "output_blocks.11.", "12 output blocks, found 11"),
        ("sd15", UNET + "input_blocks.1.0.in_layers.2.weight", "expected a whole"),
        ("sd15", UNET + "time_embed.0.weight", "expected a whole"),
        ("sd15", UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "expected a whole"),
        ("sd15", "first_stage_model.decoder.conv_out.bias", "expected a whole"),
        ("sd15", "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.bias", "expected a whole"),
        ("sd2", "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias", "expected a whole"),
    ],
)
def test_files_with_weights_missing(host, tmp_path, family, without, words):
    path = tmp_path / "part.safetensors"
    save_file({k: v for k, v in load_file(checkpoint(host, family)).items() if not k.startswith(without)}, path)
    assert words in refusal(path, tokenizer=host)


def test_weights_of_a_wrong_shape(host, tmp_path):
    path = tmp_path / "shape.safetensors"
    state = load_file(checkpoint(host))
    state[UNET + "input_blocks.1.0.emb_layers.1.weight"] = torch.zeros(3, 3)
    save_file(state, path)
    assert "expected a whole" in refusal(path, tokenizer=host)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00notjson!", "cannot be read"),
        (b"\xff" * 64, "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
    ],
)
def test_broken_files(tmp_path, content, words):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    assert words in refusal(path)


def test_truncated_file(host, tmp_path):
    path = tmp_path / "cut.safetensors"
    whole = checkpoint(host).read_bytes()
    for length in (4, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "download it again" in refusal(path)


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused_unread(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    assert "a pickle" in refusal(path)


def test_nothing_there(tmp_path):
    assert "found nothing there" in refusal(tmp_path / "none.safetensors")
    assert "local hub cache" in refusal(tmp_path / "owner" / "name")
    assert "model_index.json" in refusal(tmp_path)


def test_fp16_vae_is_refused(host):
    assert "overflows" in refusal(checkpoint(host), vae_dtype=torch.float16)


def test_pickled_folder_is_refused(host, tmp_path):
    pipeline = small.small_pipeline("sd15", host / "comfy/sd1_tokenizer")
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert "safetensors" in refusal(tmp_path)


def test_folders_with_damaged_weights(host, tmp_path):
    pipeline = small.small_pipeline("sd15", host / "comfy/sd1_tokenizer")
    weights = "diffusion_pytorch_model.safetensors"
    for file in (f"unet/{weights}", f"vae/{weights}", "text_encoder/model.safetensors"):
        pipeline.save_pretrained(tmp_path)
        path = tmp_path / file
        whole, state = path.read_bytes(), load_file(path)
        state.pop(sorted(state)[3])
        save_file(state, path, {"format": "pt"})
        assert "missing" in refusal(tmp_path)
        path.write_bytes(whole[: len(whole) // 2])
        assert "fails to load" in refusal(tmp_path)
        path.unlink()
        assert "fails to load" in refusal(tmp_path)


def test_folder_of_an_inpainting_model(host, tmp_path):
    pipeline = small.small_pipeline("sd15", host / "comfy/sd1_tokenizer")
    pipeline.register_modules(unet=type(pipeline.unet).from_config({**pipeline.unet.config, "in_channels": 9}))
    pipeline.save_pretrained(tmp_path)
    assert "4 input channels, found 9" in refusal(tmp_path)


def test_folder_with_a_scheduler_that_cannot_be_used(host, tmp_path):
    pipeline = small.small_pipeline("sd15", host / "comfy/sd1_tokenizer")
    pipeline.save_pretrained(tmp_path)
    scheduler = tmp_path / "scheduler/scheduler_config.json"
    config = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(config | {"prediction_type": "sample"}))
    assert "found sample" in refusal(tmp_path)
    scheduler.write_text("{")
    assert "fails to load" in refusal(tmp_path)


class TestTokenizerSearch:
    """Where the tokenizer is looked for, and in which order."""

    @pytest.fixture(autouse=True)
    def _bare_computer(self, monkeypatch, tmp_path):
        monkeypatch.delenv("COMFYUI_PATH", raising=False)
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
        monkeypatch.setattr(tokenizer_files, "_PACK", tmp_path / "pack")
        monkeypatch.setattr(tokenizer_files, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    @pytest.fixture
    def lonely(self, host, tmp_path) -> Path:
        """A checkpoint with no tokenizer anywhere near."""
        path = tmp_path / "models/lonely.safetensors"
        path.parent.mkdir()
        path.write_bytes(checkpoint(host).read_bytes())
        return path

    def test_not_found_names_all_places(self, lonely, tmp_path, monkeypatch):
        message = refusal(lonely)
        for place in ("COMFYUI_PATH (not set)", str(tmp_path / "models/tokenizer"), "~/ComfyUI", str(tmp_path / "hub")):
            assert place in message
        monkeypatch.setenv("COMFYUI_PATH", "/nowhere")
        assert "COMFYUI_PATH (/nowhere)" in refusal(lonely)

    @pytest.mark.parametrize("place", ["beside", "named", "pack", "home", "hub", "chosen"])
    def test_found(self, lonely, tmp_path, monkeypatch, place):
        folder = {
            "beside": tmp_path / "models/tokenizer",
            "named": tmp_path / "Comfy/comfy/sd1_tokenizer",
            "pack": tmp_path / "comfy/sd1_tokenizer",
            "home": tmp_path / "home/comfy/ComfyUI-1/comfy/sd1_tokenizer",
            "hub": tmp_path / "hub/models--openai--clip-vit-large-patch14/snapshots/abc",
            "chosen": tmp_path / "mine",
        }[place]
        small.write_tokenizer(folder)
        if place == "named":
            monkeypatch.setenv("COMFYUI_PATH", f"/nowhere{tokenizer_files.os.pathsep}{tmp_path / 'Comfy'}")
        if place == "hub":
            reference = tmp_path / "hub/models--openai--clip-vit-large-patch14/refs/main"
            reference.parent.mkdir(parents=True)
            reference.write_text("abc")
        chosen = folder if place == "chosen" else None
        assert tokenizer_files.find_tokenizer(lonely, chosen) == folder
        assert load_base(lonely, tokenizer=chosen).caption_lengths(["a red star"]) == [5]

    def test_a_chosen_one_comes_first_and_must_be_one(self, lonely, tmp_path):
        small.write_tokenizer(tmp_path / "models/tokenizer")
        mine = small.write_tokenizer(tmp_path / "mine")
        assert tokenizer_files.find_tokenizer(lonely, mine) == mine
        assert "key tokenizer" in refusal(lonely, tokenizer=tmp_path / "nothing")
        (mine / "vocab.json").write_text("{")
        assert "fails to load" in refusal(lonely, tokenizer=mine)

    def test_too_many_words(self, lonely, tmp_path):
        mine = small.write_tokenizer(tmp_path / "mine")
        words = json.loads((mine / "vocab.json").read_text("utf-8"))
        (mine / "vocab.json").write_text(json.dumps(words | {"more</w>": len(words)}), "utf-8")
        assert "at most" in refusal(lonely, tokenizer=mine)

    def test_download_only_where_it_is_allowed(self, lonely, monkeypatch):
        tried = []

        def refused(*address, **_options):
            tried.append(address)
            raise RuntimeError("no network here")  # an OSError would be tried again for half a minute

        monkeypatch.setattr(socket, "getaddrinfo", refused)
        refusal(lonely)
        assert not tried
        assert "on the hub" in refusal(lonely, allow_download=True)
        assert tried
