"""Weights that ms-swift saved load in ours, ours load in ms-swift, and both give the same output."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scedit_core import SCTuner, SkipLayout, inspect_tuner, load_tuner, save_tuner
from scedit_core.converting import convert_tuner
from scedit_core.diffusers import attach
from scedit_core.editing import Edit

TOLERANCE, EFFECT = 1e-5, 0.1


class Pipeline(nn.Module):
    """What SWIFT sees of a pipeline: a module that has the U-Net under the name `unet`."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, *inputs):
        return self.unet(*inputs)


class Diffusion(nn.Module):
    """What SWIFT sees of SCEPTER's LatentDiffusion: a module that has the U-Net under the name `model`."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.model = unet

    def forward(self, **inputs):
        return self.model(**inputs)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def randomise_tuners(model: nn.Module, fill) -> None:
    for seed, (name, module) in enumerate(model.named_modules()):
        if name.endswith(".tuner_op"):
            fill(module, seed)


@pytest.mark.parametrize("wrap", [lambda unet: unet, Pipeline], ids=["bare", "pipeline"])
@pytest.mark.parametrize(
    ("ratio", "blocks"),
    [(1.0, range(9)), (0.5, range(9)), (1.0, [0, 1, 4, 6, 8])],
    ids=["ratio-1", "ratio-0.5", "untouched-layers"],
)
def test_decoder_mode_loads_with_the_same_output(
    swift, diffusers_unet, diffusers_inputs, fill, tmp_path, wrap, ratio, blocks
):
    layout = SkipLayout.from_diffusers(diffusers_unet.config)
    place = "" if wrap(diffusers_unet) is diffusers_unet else "unet."
    config = swift.SCETuningConfig(
        dims=[layout.channels[b] for b in blocks],
        target_modules=[f"{place}up_blocks.{b // 3}.resnets.{b % 3}" for b in blocks],
        tuner_mode="decoder",
        down_ratio=ratio,
    )
    model = swift.Swift.prepare_model(wrap(copy.deepcopy(diffusers_unet)), config)
    randomise_tuners(model, fill)
    model.save_pretrained(str(tmp_path / "saved"))
    tuner = load_tuner(tmp_path / "saved")
    assert inspect_tuner(tmp_path / "saved")["format"] == "swift-diffusers"
    assert tuner.blocks == tuple(blocks)
    assert tuner.layout == layout
    with torch.no_grad():
        theirs = model(*diffusers_inputs).sample
        with attach(diffusers_unet, [(tuner, 1.0, None)]):
            ours = diffusers_unet(*diffusers_inputs).sample
        assert relative(theirs, diffusers_unet(*diffusers_inputs).sample) >= EFFECT
    assert relative(ours, theirs) < TOLERANCE


def test_identity_mode_inside_scepter_loads_with_the_same_output(swift, authors, fill, tmp_path):
    config = swift.SCETuningConfig(
        dims=list(authors.layout.channels), target_modules=r"model\.lsc_identity\.\d+", tuner_mode="identity"
    )
    model = swift.Swift.prepare_model(Diffusion(copy.deepcopy(authors.unet)), {"0_SwiftSCETuning": config})
    randomise_tuners(model, fill)
    model.save_pretrained(str(tmp_path))
    assert inspect_tuner(tmp_path)["format"] == "swift"
    with torch.no_grad():
        theirs = model(**authors.inputs)
    assert relative(theirs, authors.theirs()) >= EFFECT
    assert relative(authors.ours([Edit(load_tuner(tmp_path))]), theirs) < TOLERANCE


@pytest.mark.parametrize("blocks", [None, [0, 2, 3, 7]], ids=["all", "some"])
def test_swift_loads_what_is_converted_to_swift_diffusers(
    swift, diffusers_unet, diffusers_inputs, fill, tmp_path, blocks
):
    tuner = fill(SCTuner(SkipLayout.from_diffusers(diffusers_unet.config), ratio=0.5, blocks=blocks), 5)
    source = save_tuner(tuner, tmp_path / "ours.safetensors")
    convert_tuner(source, tmp_path / "theirs", "swift-diffusers")
    model = swift.Swift.from_pretrained(copy.deepcopy(diffusers_unet), str(tmp_path / "theirs"))
    with torch.no_grad():
        theirs = model(*diffusers_inputs).sample
        with attach(diffusers_unet, [(tuner, 1.0, None)]):
            ours = diffusers_unet(*diffusers_inputs).sample
        assert relative(ours, diffusers_unet(*diffusers_inputs).sample) >= EFFECT
    assert relative(theirs, ours) < TOLERANCE


def test_swift_loads_what_is_converted_to_swift(swift, authors, fill, tmp_path):
    tuner = fill(SCTuner(authors.layout), 6)
    convert_tuner(save_tuner(tuner, tmp_path / "ours.safetensors"), tmp_path / "theirs", "swift")
    model = swift.Swift.from_pretrained(Diffusion(copy.deepcopy(authors.unet)), str(tmp_path / "theirs"))
    with torch.no_grad():
        theirs = model(**authors.inputs)
    ours = authors.ours([Edit(tuner)])
    assert relative(ours, authors.theirs()) >= EFFECT
    assert relative(theirs, ours) < TOLERANCE
