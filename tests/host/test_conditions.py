"""The condition nodes: what they give, options from a connected tuner, and detectors in the host's hands."""

from __future__ import annotations

import gc
import importlib
import json
import shutil
import weakref
from functools import partial

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from conftest import PACK_NAME
from small_detectors import install_hed, install_model
from small_tuners import csc_tuner

DEPTH, SEGMENTATION, POSE = "SCEditDepth", "SCEditSegmentation", "SCEditPose"
CANNY, PALETTE, COMPLETION, SOFT_EDGE = "SCEditCanny", "SCEditColorPalette", "SCEditCompletion", "SCEditSoftEdge"
DEFAULTS = {CANNY: (100.0, 200.0, 0.0), PALETTE: (64,), SOFT_EDGE: ("auto", False, False)}
FINDERS = ("rtdetr-r50", "vitpose-base")


def execute(node, *values, **more):
    """Run a node on its inputs in order, by name as the host gives them."""
    names = [each.id for each in node.define_schema().inputs]
    return node.execute(**dict(zip(names, values, strict=False)), **more)


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
    comfy.model_management.unload_all_models()


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
    found = execute(pack.nodes[CANNY], image, 20.0, 60.0, 1.0)
    options = condition("canny").CannyOptions(20, 60, 1)
    assert torch.equal(found.args[0], condition("canny").canny(image, options))
    assert found.args[0].device == comfy.model_management.intermediate_device()
    previews = found.ui.as_dict()["images"]
    assert len(previews) == batch
    assert all((temporary_files / p["filename"]).is_file() for p in previews)
    found = execute(pack.nodes[PALETTE], image, 16)
    options = condition("color_palette").ColorPaletteOptions(16)
    assert torch.equal(found.args[0], condition("color_palette").color_palette(image, options))


@pytest.mark.parametrize("name", [CANNY, PALETTE])
def test_batches_have_progress(pack, name):
    before, seen = comfy.utils.PROGRESS_BAR_HOOK, []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *more, **options: seen.append((value, total)))
    try:
        execute(pack.nodes[name], noise(3, 20, 20, 3), *DEFAULTS[name])
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
    assert (seen[0], seen[-1]) == ((1, 3), (3, 3))  # newer hosts leave out what comes too quickly after another


def test_completion_gives_hint_picture_and_mask(pack):
    image, mask = noise(2, 64, 64, 3), torch.zeros(1, 64, 64)
    mask[:, :20] = 1
    node = pack.nodes[COMPLETION]
    hint, picture, masked = execute(node, image, 0, 0, 0, 0, mask).args
    assert torch.equal(picture, image)
    assert torch.equal(masked, mask.expand(2, 64, 64))
    assert torch.equal(hint, image * (1 - mask[..., None]))
    hint, picture, masked = execute(node, image, 0, 0, 64, 0).args
    assert hint.shape == picture.shape == (2, 64, 128, 3)
    assert masked.sum() == 2 * 64 * 64


@pytest.mark.parametrize(("margin", "mask", "found"), [(0, None, "neither"), (8, torch.ones(1, 8, 8), "both")])
def test_completion_wants_a_mask_or_margins(pack, margin, mask, found):
    with pytest.raises(pack.core.SCEditError, match=f"either a mask or margins, found {found}"):
        execute(pack.nodes[COMPLETION], noise(1, 8, 8, 3), margin, 0, 0, 0, mask)


def test_soft_edges_are_those_of_the_core(pack, annotators):
    network, image = install_hed(annotators), noise(2, 40, 33, 3)
    soft_edge = condition("soft_edge")
    for polarity in ("dark_on_light", "light_on_dark"):
        found = execute(pack.nodes[SOFT_EDGE], image, polarity, False, False).args[0]
        expected = soft_edge.soft_edge(image, network, soft_edge.SoftEdgeOptions(polarity))
        assert (found - expected).abs().max() < 1e-5
    assert set(execute(pack.nodes[SOFT_EDGE], image, "auto", True, True).args[0].unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("node", "name", "kind", "options"),
    [
        (DEPTH, "dpt-hybrid-midas", "dpt", {"invert": False}),
        (DEPTH, "depth-anything-v2-small", "depth_anything", {"invert": True}),
        (SEGMENTATION, "upernet-convnext-small", "upernet", {"labels_from_one": False}),
        (SEGMENTATION, "segformer-b0-ade", "segformer", {"labels_from_one": False}),
        (SEGMENTATION, "oneformer-swin-tiny", "oneformer", {"labels_from_one": False}),
    ],
)
def test_models_of_transformers(pack, annotators, node, name, kind, options):
    image, run = noise(2, 70, 130, 3), partial(execute, pack.nodes[node])
    with pytest.raises(pack.core.SCEditError, match=f"expected a detector in .*{name}, found none"):
        run(image=image, detector=name, **options)
    install_model(kind, annotators, name)
    found = run(image=image, detector=name, **options).args[0]
    assert found.shape == image.shape
    assert found.std() > 0.001
    core = condition(node.removeprefix("SCEdit").lower())
    if node == DEPTH:
        network = core.load_depth(annotators / "scedit_annotators" / name)
        expected = core.depth(image, network, core.DepthOptions(**options))
    else:
        expected = core.segmentation(image, core.load_segmentation(annotators / "scedit_annotators" / name))
    assert (found - expected).abs().max() < 1e-5
    comfy.model_management.unload_all_models()
    assert torch.equal(run(image=image, detector=name, **options).args[0], found)


def loaded_hed():
    """The HED networks that the host has loaded."""
    models = [entry.model for entry in comfy.model_management.current_loaded_models]
    return [patcher.model for patcher in models if type(patcher.model).__name__ == "HED"]


def test_a_detector_is_the_hosts_and_is_loaded_once(pack, annotators):
    install_hed(annotators)
    image = noise(1, 24, 24, 3)
    first = execute(pack.nodes[SOFT_EDGE], image, *DEFAULTS[SOFT_EDGE]).args[0]
    (network,) = loaded_hed()
    assert torch.equal(execute(pack.nodes[SOFT_EDGE], image, *DEFAULTS[SOFT_EDGE]).args[0], first)
    assert loaded_hed() == [network]
    install_hed(annotators, seed=2)
    assert not torch.equal(execute(pack.nodes[SOFT_EDGE], image, *DEFAULTS[SOFT_EDGE]).args[0], first)
    assert network not in loaded_hed()[:1]


def test_a_detector_is_gone_when_the_host_unloads_it(pack, annotators):
    """Its memory is the host's to free, off the device as well."""
    install_hed(annotators)
    image = noise(1, 24, 24, 3)
    first = execute(pack.nodes[SOFT_EDGE], image, *DEFAULTS[SOFT_EDGE]).args[0]
    network = weakref.ref(loaded_hed()[0])
    comfy.model_management.unload_all_models()
    gc.collect()
    assert network() is None
    assert torch.equal(execute(pack.nodes[SOFT_EDGE], image, *DEFAULTS[SOFT_EDGE]).args[0], first)


def test_poses_are_those_of_the_core(pack, annotators):
    image, run = noise(2, 90, 70, 3), partial(execute, pack.nodes[POSE])
    with pytest.raises(pack.core.SCEditError, match=r"rtdetr-r50, found none; .*take 172 MB .*PekingU"):
        run(*FINDERS, 0.0, 0.0, True, image)
    folders = [install_model("rtdetr", annotators, FINDERS[0])]
    with pytest.raises(pack.core.SCEditError, match=r"vitpose-base, found none; .*take 344 MB .*usyd-community"):
        run(*FINDERS, 0.0, 0.0, True, image)
    folders.append(install_model("vitpose", annotators, FINDERS[1]))
    drawn, keypoints, text = run(*FINDERS, 0.0, 0.0, True, image).args
    core = condition("pose")
    finders = core.load_person_finder(folders[0]), core.load_joint_finder(folders[1])
    options = core.PoseOptions(0.0, 0.0)
    assert (drawn - core.pose(image, *finders, options)).abs().max() < 1e-5
    assert drawn.any()
    assert json.loads(text) == keypoints
    assert [(frame["canvas_height"], frame["canvas_width"]) for frame in keypoints] == [(90, 70), (90, 70)]
    assert keypoints[0]["people"]
    black, nobody, _ = run(*FINDERS, 1.0, 0.0, True, image).args
    assert not black.any()
    assert [frame["people"] for frame in nobody] == [[], []]


def body(*points: tuple[float, float]) -> dict:
    """Someone as the host passes people on: 18 points in pixels, all sure."""
    return {"pose_keypoints_2d": [v for x, y in points for v in (x, y, 1.0)]}


def test_keypoints_of_other_nodes_are_drawn(pack):
    """No detector is installed."""
    people = [body(*((20 + 2.0 * i, 10 + 3.0 * i) for i in range(18)))]
    keypoints = [{"people": people, "canvas_width": 70, "canvas_height": 90}]
    run = partial(execute, pack.nodes[POSE])
    drawn, passed_on, _ = run(*FINDERS, 0.3, 0.3, True, keypoints=keypoints).args
    assert drawn.shape == (1, 90, 70, 3)
    assert drawn.any()
    assert passed_on[0]["people"][0]["pose_keypoints_2d"] == people[0]["pose_keypoints_2d"]
    assert torch.equal(run(*FINDERS, 0.3, 0.3, True, keypoints=passed_on).args[0], drawn)
    assert run(*FINDERS, 0.3, 0.3, True, noise(1, 180, 140, 3), keypoints).args[0].shape == (1, 180, 140, 3)
    with pytest.raises(pack.core.SCEditError, match="an image or keypoints, found neither"):
        run(*FINDERS, 0.3, 0.3, True)


def test_keypoints_go_to_and_come_from_the_hosts_own_nodes(pack):
    """SDPose's drawing takes what the pose node gives; hosts without SDPose have no such node."""
    sdpose = pytest.importorskip("comfy_extras.nodes_sdpose", reason="this host has no SDPose")
    people = [body(*((20 + 2.0 * i, 10 + 3.0 * i) for i in range(18)))]
    keypoints = [{"people": people, "canvas_width": 70, "canvas_height": 90}]
    drawn, passed_on, _ = execute(pack.nodes[POSE], *FINDERS, 0.3, 0.3, True, keypoints=keypoints).args
    theirs = sdpose.SDPoseDrawKeypoints.execute(passed_on, True, True, True, False, 4, 3, 0.3, True).args[0]
    assert theirs.shape == drawn.shape
    seen, seen_by_them = drawn.any(-1), theirs.any(-1)
    assert (seen == seen_by_them).float().mean() > 0.97
    # What their extractor makes of COCO's points, two of them missing.
    points = [(15.0 + 3 * i, 20.0 + 2 * i) for i in range(133)]
    points[3] = (-1.0, -1.0)
    frames = sdpose._to_openpose_frames([[points]], [[[0.9] * 4 + [0.1] + [0.9] * 128]], 400, 500)
    drawn, passed_on, _ = execute(pack.nodes[POSE], *FINDERS, 0.3, 0.3, True, keypoints=frames).args
    assert drawn.shape == (1, 400, 500, 3)
    assert drawn.any()
    their_body = frames[0]["people"][0]["pose_keypoints_2d"]
    ours = passed_on[0]["people"][0]["pose_keypoints_2d"]
    assert ours[:3] == pytest.approx(their_body[:3])
    assert ours[3 * 17 : 3 * 18] == [0, 0, 0]  # the left ear


def test_a_ready_label_map_is_coloured(pack):
    """No detector is installed."""
    labels = torch.tensor([[[0, 20], [12, 149]]])[..., None].expand(1, 2, 2, 3) / 255
    run = partial(execute, pack.nodes[SEGMENTATION])
    found = run("segformer-b0-ade", False, labels=labels).args[0]
    assert (found[0, 0] * 255).round().tolist() == [[120, 120, 120], [0, 102, 200]]
    from_one = run("segformer-b0-ade", True, labels=labels + 1 / 255).args[0]
    assert torch.equal(from_one, found)
    larger = run("segformer-b0-ade", False, noise(1, 8, 6, 3), labels).args[0]
    assert larger.shape == (1, 8, 6, 3)
    assert torch.equal(larger[:, ::4, ::3], found)
    with pytest.raises(pack.core.SCEditError, match="an image or labels, found neither"):
        run("segformer-b0-ade", False)


def test_a_missing_detector_is_one_sentence(pack, annotators):
    with pytest.raises(pack.core.SCEditError) as raised:
        execute(pack.nodes[SOFT_EDGE], noise(1, 24, 24, 3), *DEFAULTS[SOFT_EDGE])
    for said in ("models/scedit_annotators/hed", "ControlNetHED.pth", "29 MB", "Apache-2.0", "lllyasviel/Annotators"):
        assert said in str(raised.value)
    assert str(raised.value).count("\n") == 1  # the command


def test_a_connected_tuner_sets_the_options(pack, annotators):
    install_hed(annotators)
    image = noise(1, 64, 64, 3)
    for name, said, options in (
        (CANNY, {"type": "canny", "low": 300, "high": 600, "blur": 0}, (300.0, 600.0, 0.0)),
        (PALETTE, {"type": "color_palette", "cell": 8}, (8,)),
        (SOFT_EDGE, {"type": "soft_edge", "polarity": "light_on_dark"}, ("light_on_dark", False, False)),
    ):
        run = partial(execute, pack.nodes[name])
        by_hand = run(image, *options).args[0]
        assert not torch.equal(by_hand, run(image, *DEFAULTS[name]).args[0])
        assert torch.equal(run(image, *DEFAULTS[name], with_condition(pack, **said)).args[0], by_hand)
        silent = csc_tuner(pack)
        assert torch.equal(run(image, *options, silent).args[0], by_hand)


def test_a_connected_tuner_names_the_detector_too(pack, annotators):
    install_model("dpt", annotators, "dpt-hybrid-midas")
    install_model("depth_anything", annotators, "depth-anything-v2-small")
    image, run = noise(1, 64, 64, 3), partial(execute, pack.nodes[DEPTH])
    by_hand = run(image, "depth-anything-v2-small", True).args[0]
    named = with_condition(pack, type="depth", invert=True, detector="depth-anything-v2-small")
    assert torch.equal(run(image, "dpt-hybrid-midas", False, named).args[0], by_hand)
    unnamed = with_condition(pack, type="depth", invert=True)
    assert torch.equal(run(image, "depth-anything-v2-small", False, unnamed).args[0], by_hand)


@pytest.mark.parametrize("name", [POSE, SEGMENTATION, SOFT_EDGE, DEPTH])
def test_every_detector_node_takes_a_tuner(pack, name):
    widgets = {
        POSE: (*FINDERS, 0.3, 0.3, True, noise(1, 9, 9, 3), None),
        SEGMENTATION: ("segformer-b0-ade", False, noise(1, 9, 9, 3), None),
        SOFT_EDGE: (noise(1, 9, 9, 3), *DEFAULTS[SOFT_EDGE]),
        DEPTH: (noise(1, 9, 9, 3), "dpt-hybrid-midas", False),
    }
    with pytest.raises(pack.core.SCEditError, match="found one trained on 'canny'"):
        execute(pack.nodes[name], *widgets[name], with_condition(pack, type="canny"))


def test_a_tuner_of_another_condition_is_refused(pack):
    with pytest.raises(pack.core.SCEditError, match="expected a tuner trained on canny, found one trained on 'pose'"):
        execute(pack.nodes[CANNY], noise(1, 9, 9, 3), *DEFAULTS[CANNY], with_condition(pack, type="pose"))
    with pytest.raises(pack.core.SCEditError, match="expected a control from Load CSC-Tuner, found object"):
        execute(pack.nodes[CANNY], noise(1, 9, 9, 3), *DEFAULTS[CANNY], object())


@pytest.mark.parametrize("name", [CANNY, PALETTE])
def test_pictures_of_nan_are_refused(pack, name):
    image = noise(2, 9, 9, 3)
    image[1, 0, 0, 0] = float("nan")
    with pytest.raises(pack.core.SCEditError, match="expected finite values, found NaN"):
        execute(pack.nodes[name], image, *DEFAULTS[name])
