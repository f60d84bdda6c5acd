"""Soft edges: HED with random weights, its files, polarity, safe levels and scribbles."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from scedit_core.conditions.hed import HED, load_hed
from scedit_core.conditions.soft_edge import SoftEdgeOptions, scribbled, soft_edge
from scedit_core.errors import ConditionError


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network(fill) -> HED:
    """Random weights, on which pictures give edges of about 0.2 to 0.8."""
    return fill(HED(), 5).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(1, 1), (7, 65), (33, 31)], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_any_size_and_batch(network, size, batch):
    images, seen = noise(batch, *size, 3), []
    found = soft_edge(images, network, on_picture=lambda: seen.append(1))
    assert found.shape == (batch, *size, 3)
    assert len(seen) == batch
    assert torch.isfinite(found).all()
    if batch:
        assert 0 <= found.min() <= found.max() <= 1
        assert torch.equal(found, torch.cat([soft_edge(image[None], network) for image in images]))
    alpha = torch.cat([images, noise(batch, *size, 1)], -1)
    assert torch.equal(soft_edge(alpha, network), found)


def test_polarity(network):
    images = noise(1, 32, 32, 3)
    dark, light, auto = (
        soft_edge(images, network, SoftEdgeOptions(polarity=p)) for p in ("dark_on_light", "light_on_dark", "auto")
    )
    assert torch.equal(dark, 1 - light)
    assert torch.equal(auto, dark)
    assert light.std() > 0.01
    edges = network(images.permute(0, 3, 1, 2))
    assert torch.allclose(light, edges[..., None].expand(1, 32, 32, 3), atol=1e-6)


def test_safe_edges_have_three_levels(network):
    options = SoftEdgeOptions(polarity="light_on_dark", safe=True)
    images = noise(1, 48, 48, 3)
    found = soft_edge(images, network, options)
    plain = soft_edge(images, network, SoftEdgeOptions(polarity="light_on_dark"))
    levels = found.unique().tolist()
    assert 2 <= len(levels) <= 3
    assert set(levels) <= {0, 0.5, 1}
    assert (found - plain).abs().max() <= 0.5
    assert torch.equal(found == 0, plain < 1 / 3)


def test_scribbles_are_thin_lines_along_ridges():
    """A broad soft band becomes an even line along its middle; faint edges vanish."""
    places = torch.arange(64.0)
    band = torch.exp(-(((places - 20) / 8) ** 2)) * (0.7 + 0.3 * places[:, None] / 64)
    band[:, 40:] = 0.3
    found = scribbled(band)
    assert set(found.unique().tolist()) == {0, 1}
    assert found[:, 20].all()
    columns = found.any(0).nonzero().flatten()
    assert columns.min() >= 10
    assert columns.max() <= 30
    assert not scribbled(torch.zeros(8, 8)).any()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_either_kind_of_file(network, tmp_path, suffix):
    path = tmp_path / f"ControlNetHED{suffix}"
    state = {k: v.half() for k, v in network.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = load_hed(path)
    assert not loaded.training
    pictures = noise(1, 3, 32, 32)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert (loaded(pictures) - network(pictures)).abs().max() < 1e-2  # halves


@pytest.mark.parametrize("content", [b"", b"no weights", "other keys"], ids=["empty", "text", "another model"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_one_sentence(tmp_path, content, suffix, one_sentence):
    path = tmp_path / f"bad{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        state = {"conv.weight": torch.zeros(2)}
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(ConditionError) as raised:
        load_hed(path)
    one_sentence(raised, path.name)


def test_unknown_polarity(one_sentence):
    with pytest.raises(ConditionError) as raised:
        SoftEdgeOptions(polarity="upside down")
    one_sentence(raised, "polarity", "dark_on_light")
