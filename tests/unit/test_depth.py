"""Depth with a small random DPT-hybrid and Depth Anything, saved and loaded as real ones are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from scedit_core.conditions.depth import DepthOptions, depth, load_depth
from scedit_core.conditions.local_models import load_local
from scedit_core.errors import ConditionError


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["dpt", "depth_anything"])
def folder(request, tmp_path_factory, save_detector) -> Path:
    return save_detector(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def network(folder):
    return load_depth(folder)


@pytest.mark.parametrize("size", [(1, 1), (7, 513), (131, 75)], ids=str)
def test_any_size_and_batch(network, size):
    images, seen = noise(3, *size, 4), []
    found = depth(images, network, on_picture=lambda: seen.append(1))
    assert found.shape == (3, *size, 3)
    assert len(seen) == 3
    assert torch.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(found, torch.cat([depth(image[None, ..., :3], network) for image in images]))
    assert depth(images[:0], network).shape == (0, *size, 3)


def test_each_picture_fills_the_range_and_inverts(network):
    images = noise(2, 70, 140, 3)
    found = depth(images, network)
    assert torch.equal(found[..., 0], found[..., 2])
    assert (found.amax((1, 2, 3)) > 0.8).all()
    assert (found.amin((1, 2, 3)) < 0.2).all()
    assert torch.equal(depth(images, network, DepthOptions(invert=True)), 1 - found)


def test_it_is_what_transformers_gives(folder, network):
    """At a size that both take as it is: 64 for DPT, 70 for Depth Anything."""
    import transformers

    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    size = 70 if model.config.model_type == "depth_anything" else 64
    picture = noise(1, 3, size, size)
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        expected = model(pixel_values=(picture - mean) / std).predicted_depth
    assert torch.allclose(network(picture), expected, rtol=1e-4, atol=1e-6)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    found = depth(picture.permute(0, 2, 3, 1), network)[..., 0]
    assert torch.allclose(found, expected, atol=1e-4)


def test_weights_as_a_pickle(folder, network, tmp_path):
    """The file that older repositories have."""
    for file in folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(network.model.state_dict(), tmp_path / "pytorch_model.bin")
    images = noise(1, 40, 40, 3)
    assert torch.allclose(depth(images, load_depth(tmp_path)), depth(images, network), atol=1e-6)


def test_folders_that_are_no_such_model(folder, network, tmp_path, one_sentence):
    with pytest.raises(ConditionError) as raised:
        load_depth(tmp_path)
    one_sentence(raised, tmp_path.name)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 100 if file.suffix == ".safetensors" else None])
    with pytest.raises(ConditionError) as raised:
        load_depth(tmp_path)
    one_sentence(raised, "download it again")
    (tmp_path / "model.safetensors").unlink()
    state = network.model.state_dict()
    state.pop(next(k for k in state if k.startswith("head.")))
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConditionError) as raised:
        load_depth(tmp_path)
    one_sentence(raised, "1 missing", "head.")


def test_without_transformers_or_with_one_that_is_too_old(tmp_path, monkeypatch, one_sentence):
    with pytest.raises(ConditionError) as raised:
        load_local("AutoModelForFortuneTelling", tmp_path)
    one_sentence(raised, "AutoModelForFortuneTelling", "pip install --upgrade transformers")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConditionError) as raised:
        load_depth(tmp_path)
    one_sentence(raised, "AutoModelForDepthEstimation", "pip install --upgrade transformers")


def test_nothing_but_numbers(network, one_sentence):
    with pytest.raises(ConditionError) as raised:
        depth(torch.full((1, 8, 8, 3), float("nan")), network)
    one_sentence(raised, "NaN")
