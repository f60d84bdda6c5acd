"""Skip layouts come from a model's config, or from the shapes in a file."""

from __future__ import annotations

import pytest

from scedit_core import LayoutError, SkipLayout

SD = (1280,) * 5 + (640,) * 3 + (320,) * 4
SDXL = (1280,) * 2 + (640,) * 3 + (320,) * 4
SD_STRIDES = (8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1)
SDXL_STRIDES = SD_STRIDES[3:]

DIFFUSERS_SD = {"block_out_channels": [320, 640, 1280, 1280], "down_block_types": ["D"] * 4, "layers_per_block": 2}
DIFFUSERS_SDXL = {"block_out_channels": [320, 640, 1280], "down_block_types": ["D"] * 3, "layers_per_block": 2}
HOST_SD = {"model_channels": 320, "channel_mult": [1, 2, 4, 4], "num_res_blocks": [2, 2, 2, 2]}
HOST_SDXL = {"model_channels": 320, "channel_mult": [1, 2, 4], "num_res_blocks": 2}


@pytest.mark.parametrize(
    ("diffusers", "host", "text_width", "channels", "strides", "family"),
    [
        (DIFFUSERS_SD, HOST_SD, 768, SD, SD_STRIDES, "sd1"),
        (DIFFUSERS_SD, HOST_SD, 1024, SD, SD_STRIDES, "sd2"),
        (DIFFUSERS_SD, HOST_SD, None, SD, SD_STRIDES, "sd1-or-sd2"),
        (DIFFUSERS_SDXL, HOST_SDXL, 2048, SDXL, SDXL_STRIDES, "sdxl"),
    ],
)
def test_released_models_from_either_config(diffusers, host, text_width, channels, strides, family):
    expected = SkipLayout(channels, strides, family)
    assert SkipLayout.from_diffusers({**diffusers, "cross_attention_dim": text_width}) == expected
    assert SkipLayout.from_host({**host, "context_dim": text_width}) == expected


def test_unequal_levels_are_derived_from_the_config():
    config = {"model_channels": 48, "channel_mult": [2, 3], "num_res_blocks": [1, 3]}
    # encoder: 48 (first convolution), 96, 96 (downsampler), 144, 144, 144
    assert SkipLayout.from_host(config) == SkipLayout((144, 144, 144, 96, 96, 48), (2, 2, 2, 2, 1, 1))


def test_layout_agrees_with_the_skips_of_a_running_unet(tiny_unet, tiny_layout, inputs):
    skips = []
    handles = [
        block.register_forward_pre_hook(
            lambda _, __, kwargs: skips.extend(reversed(kwargs["res_hidden_states_tuple"])), with_kwargs=True
        )
        for block in tiny_unet.up_blocks
    ]
    tiny_unet(*inputs)
    for handle in handles:
        handle.remove()
    assert tiny_layout.channels == tuple(s.shape[1] for s in skips)
    assert tiny_layout.strides == tuple(inputs[0].shape[-1] // s.shape[-1] for s in skips)


@pytest.mark.parametrize(
    ("tuned", "channels"),
    [
        (dict(enumerate(SD)), SD),
        (dict(enumerate(SDXL)), SDXL),
        ({3: 1280, 9: 320}, SD),
        ({2: 640, 8: 320}, SDXL),
        ({3: 128, 9: 32}, tuple(c // 10 for c in SD)),
        (dict(enumerate((96,) * 3 + (64,) * 5)), (96,) * 3 + (64,) * 5),
    ],
    ids=["sd", "sdxl", "part-of-sd", "part-of-sdxl", "part-of-a-narrow-sd", "three-blocks-a-level"],
)
def test_layout_from_the_channels_of_some_blocks(tuned, channels):
    layout = SkipLayout.from_tuned(tuned)
    assert layout.channels == channels
    levels = {12: 4, 9: 3, 8: 2}[len(channels)]
    assert layout.strides == tuple(
        2**level for level in reversed(range(levels)) for _ in range(len(channels) // levels)
    )


def test_blocks_that_sd_and_sdxl_share_need_a_family(one_sentence):
    shared = {0: 1280, 1: 1280, 8: 320}
    with pytest.raises(LayoutError) as raised:
        SkipLayout.from_tuned(shared)
    one_sentence(raised, "scedit.family")
    assert SkipLayout.from_tuned(shared, "sdxl").channels == SDXL
    assert SkipLayout.from_tuned(shared, "sd2") == SkipLayout(SD, SD_STRIDES, "sd2")


@pytest.mark.parametrize("tuned", [{}, {0: 1280, 1: 77}, {40: 320}, {3: 100, 4: 90}])
def test_channels_that_fit_no_unet_are_refused(tuned, one_sentence):
    with pytest.raises(LayoutError) as raised:
        SkipLayout.from_tuned(tuned)
    one_sentence(raised)


def test_a_tuner_fits_its_own_family_only():
    sd1, sd2, either = (SkipLayout(SD, SD_STRIDES, f) for f in ("sd1", "sd2", "sd1-or-sd2"))
    sdxl = SkipLayout(SDXL, SDXL_STRIDES, "sdxl")
    assert sd1.mismatch(sd1) is None
    assert sd1.mismatch(either) is None
    assert sd2.mismatch(either) is None
    assert sd1.mismatch(sd2) == "expected a tuner for SD 1.5, found one for SD 2.1"
    assert sd1.mismatch(sdxl) == "expected a tuner for SD 1.5, found one for SDXL"


@pytest.mark.parametrize(
    ("channels", "strides"),
    [((), ()), ((8, 8), (1,)), ((8, 0), (2, 1)), ((8, 8), (1, 0)), ((8, 8), (1, 2)), ((8, 8), (3, 2))],
    ids=str,
)
def test_impossible_layouts_are_refused(channels, strides, one_sentence):
    with pytest.raises(LayoutError) as raised:
        SkipLayout(channels, strides)
    one_sentence(raised)


@pytest.mark.parametrize("config", [{}, {"image_model": "flux", "hidden_size": 3072}, {"_class_name": "DiTModel"}])
def test_models_without_skips_are_refused(config, one_sentence):
    for read in (SkipLayout.from_diffusers, SkipLayout.from_host):
        with pytest.raises(LayoutError) as raised:
            read(config)
        one_sentence(raised)
