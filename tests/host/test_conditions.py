"""The condition nodes: what they give, options from a connected tuner, and detectors in the host's hands."""

from __future__ import annotations

import importlib
import json
import shutil

import comfy.model_management
import folder_paths
import pytest
import torch
from conftest import PACK_NAME
from small_detectors import install_hed, install_model
from small_tuners import csc_tuner

DEPTH, SEGMENTATION = "SCEditDepth", "SCEditSegmentation"
CANNY, PALETTE, COMPLETION, SOFT_EDGE = "SCEditCanny", "SCEditColorPalette", "SCEditCompletion", "SCEditSoftEdge"
DEFAULTS = {CANNY: (100.0, 200.0, 0.0), PALETTE: (64,), SOFT_EDGE: ("auto", False, False)}


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def temporary_files(tmp_path):
    """Previews go here, not into the host's folder."""
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    yield tmp_path / "temp"
    folder_paths.set_temp_directory(before)


@pytest.fixture
def annotators(pack, models_folder):
    """The models folder, for detectors in it; none before and after the test."""
    yield models_folder
    shutil.rmtree(models_folder / "scedit_annotators", ignore_errors=True)
    importlib.import_module(f"{PACK_NAME}.nodes.detectors")._loaded.clear()


def condition(name: str):
    """A module of scedit_core.conditions, as the pack under test has it."""
    return importlib.import_module(f"{PACK_NAME}.scedit_core.conditions.{name}")


def with_condition(pack, **said):
    """A CONTROL_NET whose file says how its hints were made."""
    control = csc_tuner(pack)
    control.tuner.tuner.metadata["scedit.condition"] = json.dumps(said)
    return control


@pytest.mark.parametrize("batch", [1, 3])
def test_nodes_give_what_the_core_gives_and_show_it(pack, batch, temporary_files):
    image = noise(batch, 70, 130, 4)
    found = pack.nodes[CANNY].execute(image, 20.0, 60.0, 1.0)
    options = condition("canny").CannyOptions(20, 60, 1)
    assert torch.equal(found.args[0], condition("canny").canny(image, options))
    assert found.args[0].device == comfy.model_management.intermediate_device()
    previews = found.ui.as_dict()["images"]
    assert len(previews) == batch
    assert all((temporary_files / p["filename"]).is_file() for p in previews)
    found = pack.nodes[PALETTE].execute(image, 16)
    options = condition("color_palette").ColorPaletteOptions(16)
    assert torch.equal(found.args[0], condition("color_palette").color_palette(image, options))


def test_completion_gives_hint_picture_and_mask(pack):
    image, mask = noise(2, 64, 64, 3), torch.zeros(1, 64, 64)
    mask[:, :20] = 1
    node = pack.nodes[COMPLETION]
    hint, picture, masked = node.execute(image, 0, 0, 0, 0, mask).args
    assert torch.equal(picture, image)
    assert torch.equal(masked, mask.expand(2, 64, 64))
    assert torch.equal(hint, image * (1 - mask[..., None]))
    hint, picture, masked = node.execute(image, 0, 0, 64, 0).args
    assert hint.shape == picture.shape == (2, 64, 128, 3)
    assert masked.sum() == 2 * 64 * 64


@pytest.mark.parametrize(("margin", "mask", "found"), [(0, None, "neither"), (8, torch.ones(1, 8, 8), "both")])
def test_completion_wants_a_mask_or_margins(pack, margin, mask, found):
    with pytest.raises(pack.core.SCEditError, match=f"either a mask or margins, found {found}"):
        pack.nodes[COMPLETION].execute(noise(1, 8, 8, 3), margin, 0, 0, 0, mask)


def test_soft_edges_are_those_of_the_core(pack, annotators):
    network, image = install_hed(annotators), noise(2, 40, 33, 3)
    soft_edge = condition("soft_edge")
    for polarity in ("dark_on_light", "light_on_dark"):
        found = pack.nodes[SOFT_EDGE].execute(image, polarity, False, False).args[0]
        expected = soft_edge.soft_edge(image, network, soft_edge.SoftEdgeOptions(polarity))
        assert (found - expected).abs().max() < 1e-5
    assert set(pack.nodes[SOFT_EDGE].execute(image, "auto", True, True).args[0].unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("node", "name", "kind", "options"),
    [
        (DEPTH, "dpt-hybrid-midas", "dpt", (False,)),
        (DEPTH, "depth-anything-v2-small", "depth_anything", (True,)),
        (SEGMENTATION, "upernet-convnext-small", "upernet", ()),
        (SEGMENTATION, "segformer-b0-ade", "segformer", ()),
    ],
)
def test_models_of_transformers(pack, annotators, node, name, kind, options):
    image, run = noise(2, 70, 130, 3), pack.nodes[node].execute
    with pytest.raises(pack.core.SCEditError, match=f"expected model.safetensors or .*{name}, found none"):
        run(image, name, *options)
    install_model(kind, annotators, name)
    found = run(image, name, *options).args[0]
    assert found.shape == image.shape
    assert found.std() > 0.001
    core = condition(node.removeprefix("SCEdit").lower())
    if node == DEPTH:
        network = core.load_depth(annotators / "scedit_annotators" / name)
        expected = core.depth(image, network, core.DepthOptions(*options))
    else:
        expected = core.segmentation(image, core.load_segmentation(annotators / "scedit_annotators" / name))
    assert (found - expected).abs().max() < 1e-5
    comfy.model_management.unload_all_models()
    assert torch.equal(run(image, name, *options).args[0], found)


def test_a_detector_is_the_hosts_and_is_loaded_once(pack, annotators):
    install_hed(annotators)
    image, detectors = noise(1, 24, 24, 3), importlib.import_module(f"{PACK_NAME}.nodes.detectors")
    first = pack.nodes[SOFT_EDGE].execute(image, *DEFAULTS[SOFT_EDGE]).args[0]
    patcher = detectors._loaded["hed"][1].patcher
    assert any(entry.model is patcher for entry in comfy.model_management.current_loaded_models)
    assert torch.equal(pack.nodes[SOFT_EDGE].execute(image, *DEFAULTS[SOFT_EDGE]).args[0], first)
    assert detectors._loaded["hed"][1].patcher is patcher
    comfy.model_management.unload_all_models()  # the host may want its memory at any time
    assert torch.equal(pack.nodes[SOFT_EDGE].execute(image, *DEFAULTS[SOFT_EDGE]).args[0], first)
    install_hed(annotators, seed=2)
    assert not torch.equal(pack.nodes[SOFT_EDGE].execute(image, *DEFAULTS[SOFT_EDGE]).args[0], first)


def test_a_missing_detector_is_one_sentence(pack, annotators):
    with pytest.raises(pack.core.SCEditError) as raised:
        pack.nodes[SOFT_EDGE].execute(noise(1, 24, 24, 3), *DEFAULTS[SOFT_EDGE])
    folder = annotators / "scedit_annotators" / "hed"
    for said in (str(folder), "ControlNetHED.pth", "29 MB", "Apache-2.0", "lllyasviel/Annotators"):
        assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_connected_tuner_sets_the_options(pack, annotators):
    install_hed(annotators)
    image = noise(1, 64, 64, 3)
    for name, said, options in (
        (CANNY, {"type": "canny", "low": 300, "high": 600, "blur": 0}, (300.0, 600.0, 0.0)),
        (PALETTE, {"type": "color_palette", "cell": 8}, (8,)),
        (SOFT_EDGE, {"type": "soft_edge", "polarity": "light_on_dark"}, ("light_on_dark", False, False)),
    ):
        run = pack.nodes[name].execute
        by_hand = run(image, *options).args[0]
        assert not torch.equal(by_hand, run(image, *DEFAULTS[name]).args[0])
        assert torch.equal(run(image, *DEFAULTS[name], with_condition(pack, **said)).args[0], by_hand)
        silent = csc_tuner(pack)
        assert torch.equal(run(image, *options, silent).args[0], by_hand)


def test_a_tuner_of_another_condition_is_refused(pack):
    with pytest.raises(pack.core.SCEditError, match="expected a tuner trained on canny, found one trained on 'pose'"):
        pack.nodes[CANNY].execute(noise(1, 9, 9, 3), *DEFAULTS[CANNY], with_condition(pack, type="pose"))
    with pytest.raises(pack.core.SCEditError, match="expected a control from Load CSC-Tuner, found object"):
        pack.nodes[CANNY].execute(noise(1, 9, 9, 3), *DEFAULTS[CANNY], object())


@pytest.mark.parametrize("name", [CANNY, PALETTE])
def test_pictures_of_nan_are_refused(pack, name):
    image = noise(2, 9, 9, 3)
    image[1, 0, 0, 0] = float("nan")
    with pytest.raises(pack.core.SCEditError, match="expected finite values, found NaN"):
        pack.nodes[name].execute(image, *DEFAULTS[name])
