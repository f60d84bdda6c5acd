"""A ControlNet is loaded as ComfyUI users have it, for each family, and what is none is told in one sentence."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from safetensors.torch import save_file

from scedit_core import SkipLayout
from scedit_core.errors import BaseModelError, ConfigError
from training.__main__ import main
from training.bases.base_model import BaseModel
from training.bases.teacher import load_teacher
from training.config_file import parse_config

_spec = importlib.util.spec_from_file_location("small_checkpoints", Path(__file__).with_name("small_checkpoints.py"))
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, BaseModel]:
    tokenizer = small.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    pipelines = {family: small.small_pipeline(family, tokenizer) for family in small.FAMILIES}
    return {
        family: BaseModel(family, made, SkipLayout.from_diffusers(made.unet.config), torch.device("cpu"))
        for family, made in pipelines.items()
    }


def controlnet(base: BaseModel, kind=ControlNetModel, **options):
    """A ControlNet for the base's encoder with every weight random."""
    like = ControlNetModel.from_unet(base.unet)
    if kind is ControlNetModel:
        network = like
    else:
        keys = ControlNetUnionModel._get_init_keys(ControlNetUnionModel)
        network = kind(**{k: v for k, v in like.config.items() if k in keys} | options)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * 0.05 + (p.ndim == 1) * 0.1)
    return network.eval()


def original_names(network) -> dict[str, torch.Tensor]:
    """Its weights as the original ControlNet names them."""
    state = network.state_dict()
    named = {
        f"control_model.{k}": v
        for k, v in small.unet_names({k: v for k, v in state.items() if "control" not in k}, network.config).items()
    }
    for key, tensor in state.items():
        key = re.sub(r"controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0.", key)
        key = key.replace("controlnet_mid_block.", "middle_block_out.0.")
        if key.startswith("controlnet_cond_embedding."):
            rest = key.removeprefix("controlnet_cond_embedding.")
            number = 0 if rest.startswith("conv_in") else 14
            if m := re.match(r"blocks\.(\d+)\.", rest):
                number = 2 + 2 * int(m[1])
            key = f"input_hint_block.{number}.{rest.rsplit('.', 1)[1]}"
        if key.startswith(("zero_convs", "middle_block_out", "input_hint_block")):
            named[f"control_model.{key}"] = tensor
    return {k: v.contiguous() for k, v in named.items()}


def lesson(base: BaseModel) -> dict:
    """One batch of a run at 64 pixels."""
    draw = torch.Generator().manual_seed(1)
    sizes = torch.full((2, 6), 64.0) if base.needs_sizes else None
    return {
        "noisy": torch.randn(2, 4, 16, 16, generator=draw),
        "timesteps": torch.tensor([10, 700]),
        "hints": torch.rand(2, 3, 128, 128, generator=draw),
        "text": base.encode_captions(["red star", ""]),
        "sizes": sizes,
    }


def write(path: Path, weights: dict[str, torch.Tensor], how: str) -> Path:
    weights = {k: v.half() for k, v in weights.items()} if how.endswith("fp16") else weights
    if how.startswith("pth"):
        torch.save(weights, path.with_suffix(".pth"))
        return path.with_suffix(".pth")
    save_file(weights, path)
    return path


@pytest.mark.parametrize("how", ["diffusers", "original", "original fp16", "pth", "folder"])
@pytest.mark.parametrize("family", small.FAMILIES)
def test_residuals_are_the_controlnets_own(family, how, bases, tmp_path):
    base, path = bases[family], tmp_path / "teacher.safetensors"
    network = controlnet(base)
    if how == "folder":
        network.save_pretrained(tmp_path / "folder")
        path = tmp_path / "folder"
    else:
        path = write(path, network.state_dict() if how == "diffusers" else original_names(network), how)
    teacher, batch = load_teacher(path, base, torch.float32), lesson(base)
    made = teacher.residuals(**batch)
    if how.endswith("fp16"):
        network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    inputs = {"sample": batch.pop("noisy"), "timestep": batch.pop("timesteps"), "controlnet_cond": batch.pop("hints")}
    with torch.no_grad():
        down, own_middle = network(**inputs, **base.unet_inputs(**batch), return_dict=False)
    assert [r.shape[1] for r in made.skips] == list(base.layout.channels)
    for ours, own in zip([*made.skips, made.middle], [*down[::-1], own_middle], strict=True):
        torch.testing.assert_close(ours, own, rtol=2e-4, atol=2e-4)
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_a_union_controlnet_is_told_which_of_its_kinds(bases, tmp_path):
    base = bases["sdxl"]
    sizes = {"num_trans_channel": 32, "num_proj_channel": 32, "num_trans_head": 8, "num_control_type": 6}
    network = controlnet(base, ControlNetUnionModel, **sizes)
    path = write(tmp_path / "union.safetensors", network.state_dict(), "diffusers")
    depth, canny = (load_teacher(path, base, torch.float32, kind) for kind in ("depth", "canny"))
    batch = lesson(base)
    made, other = (t.residuals(**batch).skips[0] for t in (depth, canny))
    inputs = {"sample": batch.pop("noisy"), "timestep": batch.pop("timesteps"), "controlnet_cond": [batch.pop("hints")]}
    tasks = torch.tensor([[0.0, 1, 0, 0, 0, 0]]).repeat(2, 1)
    with torch.no_grad():
        down, _ = network(
            **inputs, **base.unet_inputs(**batch), control_type=tasks, control_type_idx=[1], return_dict=False
        )
    torch.testing.assert_close(made, down[-1], rtol=2e-4, atol=2e-4)
    assert not torch.allclose(made, other, rtol=1e-3)
    with pytest.raises(BaseModelError, match=r"expected one of openpose.* found none"):
        load_teacher(path, base, torch.float32)
    with pytest.raises(BaseModelError, match="6 kinds"):
        load_teacher(path, base, torch.float32, "tile")


ODD = {
    "a T2I-Adapter": {"adapter.body.0.resnets.0.block1.weight": (4, 4)},
    "a ControlNet-LLLite": {"lllite_unet_input_blocks_4_1_attn1_to_k.down.0.weight": (4, 4)},
    "a control LoRA": {"lora_controlnet": (1,)},
    "a tuner": {"tuners.0.down.weight": (4, 8)},
    "a base model": {"model.diffusion_model.output_blocks.0.0.weight": (4, 4)},
    "a ControlNet of a transformer": {"double_blocks.0.img_attn.qkv.weight": (4, 4)},
    "a file with something": {"something": (1,)},
}


@pytest.mark.parametrize("found", ODD)
def test_other_files_are_named(found, bases, tmp_path):
    path = write(tmp_path / "odd.safetensors", {k: torch.zeros(v) for k, v in ODD[found].items()}, "diffusers")
    assert f"found {found}" in refusal(path, bases["sd15"])


def test_another_family_is_told(bases, tmp_path):
    path = write(tmp_path / "sd2.safetensors", original_names(controlnet(bases["sd2"])), "original")
    for family in ("sd15", "sdxl"):
        assert "found one for another base" in refusal(path, bases[family])
    controlnet(bases["sdxl"]).save_pretrained(tmp_path / "folder")
    assert "found one for another base" in refusal(tmp_path / "folder", bases["sd2"])


def test_a_mask_channel_a_cut_file_and_missing_weights_are_told(bases, tmp_path):
    base = bases["sd15"]
    network = controlnet(base)
    wide = network.state_dict() | {"controlnet_cond_embedding.conv_in.weight": torch.zeros(16, 4, 3, 3)}
    assert "found one of 4" in refusal(write(tmp_path / "wide.safetensors", wide, "diffusers"), base)
    whole = write(tmp_path / "whole.safetensors", network.state_dict(), "diffusers")
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    assert "cannot be read" in refusal(tmp_path / "cut.safetensors", base)
    less = {k: v for k, v in network.state_dict().items() if not k.startswith("controlnet_mid_block.")}
    assert "found one without controlnet_mid_block" in refusal(write(tmp_path / "less.safetensors", less, ""), base)
    assert "found nothing there" in refusal(tmp_path / "none.safetensors", base)
    assert "remove teacher.kind" in refusal(whole, base, "canny")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text(json.dumps({}))
    assert "found a folder without a ControlNet's config.json and weights" in refusal(tmp_path / "empty", base)
    assert "found another file; check teacher.controlnet" in refusal(tmp_path / "empty/config.json", base)


@pytest.mark.parametrize("command", ["check", "train"])
def test_what_is_no_controlnet_is_told_before_anything_is_encoded(control_values, tmp_path, capsys, command):
    write(tmp_path / "odd.safetensors", {k: torch.zeros(v) for k, v in ODD["a T2I-Adapter"].items()}, "diffusers")
    for name, said in (("none.safetensors", "found nothing there"), ("odd.safetensors", "found a T2I-Adapter")):
        control_values["teacher"] = {"controlnet": str(tmp_path / name)}
        (tmp_path / "run.yaml").write_text(json.dumps(control_values))
        assert main([command, str(tmp_path / "run.yaml")]) == 2
        assert said in capsys.readouterr().err
        assert not Path(control_values["output"]).with_suffix(".run").exists()


def test_a_teacher_that_teaches_nothing_is_refused(control_values):
    control_values["teacher"] = {"controlnet": "edges.safetensors", "residuals": 0, "predictions": 0}
    with pytest.raises(
        ConfigError, match=r"teacher: expected residuals or predictions above 0, found none of either; "
    ):
        parse_config(control_values)


def test_a_file_of_the_old_format_of_pytorch_is_read(bases, tmp_path):
    torch.save(controlnet(bases["sd15"]).state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_teacher(tmp_path / "old.pth", bases["sd15"], torch.float32).parameters > 0


def refusal(path: Path, base: BaseModel, kind: str | None = None) -> str:
    """The sentence with which `path` is refused."""
    with pytest.raises(BaseModelError) as caught:
        load_teacher(path, base, torch.float32, kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)
