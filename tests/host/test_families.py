"""Every U-Net that the host's list of models has: the layout is that of its skips, and tuners edit them."""

from __future__ import annotations

import inspect

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import pytest
import torch
from plain_edits import PlainEdits, plain_sc
from small_model import TEXT_WIDTH, WIDTH, randomise, relative
from small_tuners import apply_sc

FAMILIES = {
    name: kind
    for name, kind in inspect.getmembers(comfy.supported_models, inspect.isclass)
    if kind in comfy.supported_models.models and "model_channels" in kind.unet_config
}
# What files tell and the list does not, where it is not that of SD 1.5: levels, blocks in each, depths in and out.
_SDXL = {"channel_mult": (1, 2, 4), "num_res_blocks": [2, 2, 2], "transformer_depth_middle": 1}
_SDXL |= {"transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2]}
_KOALA = {"channel_mult": (1, 2, 4), "num_res_blocks": [1, 1, 1], "transformer_depth_middle": -2}
_KOALA |= {"transformer_depth": [0, 1, 2], "transformer_depth_output": [0, 0, 1, 1, 2, 2]}
_SHAPES = {
    "SDXL": _SDXL,
    "SDXL_instructpix2pix": _SDXL,
    "SSD1B": _SDXL | {"transformer_depth_output": [0, 0, 0, 1, 1, 2, 3, 1, 1], "transformer_depth_middle": -1},
    "Segmind_Vega": _SDXL | {"transformer_depth_middle": -1},
    "KOALA_700M": _KOALA,
    "KOALA_1B": _KOALA | {"transformer_depth_middle": 1},
    "SDXLRefiner": {
        "transformer_depth": [0, 0, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "SD_X4Upscaler": {"channel_mult": (1, 2, 2, 4)},
}
_VIDEO = {
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "disable_temporal_crossattention": False,
}


def config_of(name: str) -> dict:
    """The family's U-Net with its own levels and blocks, at a tenth of its width."""
    kind = FAMILIES[name]
    told = {**kind.unet_config, **kind.unet_extra_config}
    config = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "use_spatial_transformer": True,
        "legacy": False,
        "dtype": torch.float32,
        "channel_mult": (1, 2, 4, 4),
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1] * 6 + [0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
        **told,
        "context_dim": TEXT_WIDTH,
        "model_channels": WIDTH,
        **_SHAPES.get(name, {}),
        **(_VIDEO if told["use_temporal_attention"] else {}),
    }
    heads = {"num_heads": 4, "num_head_channels": -1} if told.get("num_heads", -1) > 0 else {"num_head_channels": 16}
    if config.get("adm_in_channels"):
        heads.setdefault("num_classes", told.get("num_classes", "sequential"))
    return {"num_heads": -1, **config, **heads}


def test_all_of_them_are_here():
    assert len(FAMILIES) >= 17
    assert {"SD15", "SD20", "SDXL", "SDXLRefiner", "SSD1B", "KOALA_1B", "SVD_img2vid", "SD_X4Upscaler"} <= set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family(pack, name, caplog):
    """One forward of its U-Net, through the host's own wrappers; those of the same sizes for other work are told."""
    config = config_of(name)
    supported = FAMILIES[name](dict(config))
    supported.unet_config |= config
    supported.manual_cast_dtype = None
    base = comfy.model_base.BaseModel(supported, device=torch.device("cpu"))
    unet = randomise(base.diffusion_model, 1)
    model = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    layout = pack.patch.layout_of(base)
    tuner = pack.managed.ManagedTuner(randomise(pack.core.SCTuner(layout), 2), "random", "random")
    draw = torch.Generator().manual_seed(3)
    frames = 2
    x = torch.randn(frames, config["in_channels"], 16, 16, generator=draw)
    inputs = {"timesteps": torch.full((frames,), 500.0), "context": torch.randn(frames, 7, TEXT_WIDTH, generator=draw)}
    if config.get("num_classes") == "sequential":
        inputs["y"] = torch.randn(frames, config["adm_in_channels"], generator=draw)
    elif config.get("num_classes"):
        inputs["y"] = torch.zeros(frames, dtype=torch.long)
    if config.get("use_temporal_resblock"):
        inputs |= {"num_video_frames": frames, "image_only_indicator": torch.zeros(1, frames)}

    def forward(patcher=None, patch=None):
        options = {"cond_or_uncond": [0], "sigmas": torch.ones(frames)}
        if patcher is not None:
            patches = patcher.model_options["transformer_options"]["patches"]
            options |= {"patches": patches, "wrappers": patcher.wrappers}
        elif patch is not None:
            options["patches"] = {"output_block_patch": [patch]}
        return unet(x, transformer_options=options, **inputs)

    plain = PlainEdits(pack, [plain_sc(pack, tuner, 0.6)])
    expected = forward(patch=plain)
    assert plain.seen == dict(enumerate(layout.channels))
    assert relative(expected, forward()) > 1e-3
    assert relative(forward(apply_sc(pack, model, tuner, 0.6)), expected) < 1e-5
    said = [record.message for record in caplog.records if "no tuner was trained" in record.message]
    assert len(said) == (name in ("SVD_img2vid", "SV3D_u", "SV3D_p", "Stable_Zero123", "LotusD"))
    assert all(f"found {name}, " in each for each in said)
