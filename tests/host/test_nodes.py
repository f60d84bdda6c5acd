"""The nodes themselves: files they list and load, what they refuse, and what stays when a group cannot be imported."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import folder_paths
import pytest
import torch
from conftest import PACK_NAME
from small_model import relative, sample, small_model
from small_tuners import apply_csc, apply_sc, csc_tuner, layout, sc_tuner

IDS = {
    "SCEditLoadSCTuner",
    "SCEditApplySCTuner",
    "SCEditLoadCSCTuner",
    "SCEditApplyCSCTuner",
    "SCEditBlockWeights",
    "SCEditTunerInfo",
    "SCEditMergeSCTuners",
    "SCEditSaveTuner",
}


@pytest.fixture
def scedit_folder(models_folder):
    """models/scedit, empty before and after the test."""
    folder = models_folder / "scedit"
    yield folder
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    folder_paths.filename_list_cache.clear()


def listed(pack, node: str) -> list[str]:
    folder_paths.filename_list_cache.clear()
    inputs = {i.id: i for i in pack.nodes[node].define_schema().inputs}
    return inputs["tuner_name"].options


def load(pack, node: str, name: str):
    return pack.nodes[node].execute(name).args[0]


def test_all_nodes_are_there(pack):
    assert set(pack.nodes) >= IDS
    assert pack.module.WEB_DIRECTORY == "./web"


def test_every_input_has_a_tooltip(pack):
    for name, node in pack.nodes.items():
        schema = node.define_schema()
        for each in [*schema.inputs, *schema.outputs]:
            assert len(each.tooltip or "") > 10, f"{name}: {each.id}"
        assert schema.category.split("/")[0] == "SCEdit"
        assert schema.description


def test_files_are_listed_loaded_and_read_again_when_they_change(pack, scedit_folder):
    assert listed(pack, "SCEditLoadSCTuner") == [pack.folders.NO_TUNER]
    path = scedit_folder / "styles" / "ink.safetensors"
    pack.core.save_tuner(sc_tuner(pack).tuner, path)
    (scedit_folder / "notes.txt").write_text("not a tuner")
    name = os.path.join("styles", "ink.safetensors")
    assert listed(pack, "SCEditLoadSCTuner") == [name]
    first = load(pack, "SCEditLoadSCTuner", name)
    assert torch.equal(first.tuner.tuners["0"].up.weight, sc_tuner(pack).tuner.tuners["0"].up.weight)
    fingerprint = pack.nodes["SCEditLoadSCTuner"].fingerprint_inputs
    training = pack.nodes["SCEditTrainOnModel"].fingerprint_inputs
    # of a name that another node gives the host tells nothing: None
    asked = [partial(fingerprint, name), partial(fingerprint, None), partial(training, start_from=[name])]
    before, untouched = [ask() for ask in asked], [training(), training(start_from=["none"])]
    assert [ask() for ask in asked] == before
    pack.core.save_tuner(sc_tuner(pack, 99).tuner, path)
    assert all(ask() != old for ask, old in zip(asked, before, strict=True))
    assert [training(), training(start_from=["none"])] == untouched
    # What was loaded stays what it was, though its file is another now.
    assert torch.equal(first.tuner.tuners["0"].up.weight, sc_tuner(pack).tuner.tuners["0"].up.weight)


def test_a_control_is_no_style_however_late_its_unet_is_known(pack, scedit_folder):
    path = pack.core.save_tuner(csc_tuner(pack).tuner.tuner, scedit_folder / "edges.safetensors")
    unplaced = pack.managed.UnplacedTuner("edges", str(path), "expected a known U-Net")
    for load_it in (
        lambda: load(pack, "SCEditLoadSCTuner", "edges.safetensors"),
        lambda: unplaced.placed(layout(pack)),
    ):
        with pytest.raises(pack.core.TunerFileError, match=r"found a control tuner .* load it with Load CSC-Tuner"):
            load_it()


def test_control_tuners_are_found_under_controlnet_too(pack, scedit_folder, models_folder):
    pack.core.save_tuner(csc_tuner(pack).tuner.tuner, models_folder / "controlnet" / "edges.safetensors")
    assert "edges.safetensors" in listed(pack, "SCEditLoadCSCTuner")
    assert "edges.safetensors" not in listed(pack, "SCEditLoadSCTuner")
    control = load(pack, "SCEditLoadCSCTuner", "edges.safetensors")
    assert isinstance(control, pack.control.SCEditControl)
    (models_folder / "controlnet" / "edges.safetensors").unlink()


def test_folders_that_extra_model_paths_adds(pack, scedit_folder, tmp_path):
    """The host adds them under the same key, before or after the pack; only tuner files of them are listed."""
    pack.core.save_tuner(sc_tuner(pack).tuner, tmp_path / "more.safetensors")
    (tmp_path / "readme.md").write_text("no tuner")
    folder_paths.add_model_folder_path("scedit", str(tmp_path))
    try:
        assert listed(pack, "SCEditLoadSCTuner") == ["more.safetensors"]
        assert load(pack, "SCEditLoadSCTuner", "more.safetensors").source == str(tmp_path / "more.safetensors")
    finally:
        folder_paths.folder_names_and_paths["scedit"][0].remove(str(tmp_path))


def test_a_released_folder_loads_as_it_is(pack, scedit_folder):
    folder = scedit_folder / "ink_style" / "0_SwiftSCETuning"
    folder.mkdir(parents=True)
    tuner = sc_tuner(pack).tuner
    parts = {"down": "ln1", "up": "ln2"}
    state = {}
    for key, value in tuner.to_file().items():
        _, b, part, kind = key.split(".")
        state[f"model.lsc_identity.{b}.tuner_op.{parts[part]}.{kind}"] = value
    torch.save(state, folder / "pytorch_model.bin")
    name = os.path.join("ink_style", "0_SwiftSCETuning", "pytorch_model.bin")
    assert listed(pack, "SCEditLoadSCTuner") == [name]
    loaded = load(pack, "SCEditLoadSCTuner", name)
    model = small_model()
    found = sample(apply_sc(pack, model, loaded))
    assert torch.equal(found, sample(apply_sc(pack, model, sc_tuner(pack))))


@pytest.mark.parametrize(
    ("to", "kind"), [("scepter", "sc"), ("swift", "sc"), ("swift-diffusers", "sc"), ("scepter", "csc")]
)
def test_folders_of_every_release_load_as_they_are(pack, scedit_folder, to, kind):
    """As SCEPTER and SWIFT write them: folder, weights and configuration files."""
    own = sc_tuner(pack) if kind == "sc" else csc_tuner(pack)
    tuner = own if kind == "sc" else own.tuner
    with tempfile.TemporaryDirectory() as elsewhere:
        source = pack.core.save_tuner(tuner.tuner, Path(elsewhere) / "own.safetensors")
        converting = importlib.import_module(f"{PACK_NAME}.scedit_core.converting")
        written = converting.convert_tuner(source, scedit_folder / "released_style", to=to).path
    name = os.path.relpath(written, scedit_folder)
    node = "SCEditLoadSCTuner" if kind == "sc" else "SCEditLoadCSCTuner"
    assert name in listed(pack, node)
    loaded = load(pack, node, name)
    model = small_model()
    if kind == "sc":
        found, expected = (sample(apply_sc(pack, model, each)) for each in (loaded, own))
    else:
        found, expected = (sample(apply_csc(pack, model, each)) for each in (loaded, own))
    assert torch.equal(found, expected)
    assert relative(found, sample(model)) > 0.01


def test_the_wrong_kind_of_file_names_the_right_node(pack, scedit_folder):
    pack.core.save_tuner(sc_tuner(pack).tuner, scedit_folder / "style.safetensors")
    pack.core.save_tuner(csc_tuner(pack).tuner.tuner, scedit_folder / "edges.safetensors")
    folder_paths.filename_list_cache.clear()
    with pytest.raises(pack.core.SCEditError, match=r"style.*found an SC-Tuner; load it with Load SC-Tuner"):
        load(pack, "SCEditLoadCSCTuner", "style.safetensors")
    with pytest.raises(pack.core.SCEditError, match=r"edges.*found a control tuner.*load it with Load CSC-Tuner"):
        load(pack, "SCEditLoadSCTuner", "edges.safetensors")


def test_bad_files_are_one_sentence(pack, scedit_folder):
    path = scedit_folder / "style.safetensors"
    broken = sc_tuner(pack).tuner
    broken.tuners["3"].up.weight[0, 0] = float("nan")
    pack.core.save_tuner(broken, path)
    with pytest.raises(pack.core.SCEditError, match="expected finite weights, found NaN") as refusal:
        load(pack, "SCEditLoadSCTuner", "style.safetensors")
    assert "\n" not in str(refusal.value)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(pack.core.TunerFileError, match="expected a whole tuner file"):
        load(pack, "SCEditLoadSCTuner", "style.safetensors")
    path.unlink()
    with pytest.raises(
        pack.core.TunerFileError, match=r"expected this file in models/scedit, found none; put it there and press R"
    ):
        load(pack, "SCEditLoadSCTuner", "style.safetensors")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("flat", [1] * 12),
        ("shallow only", [0] * 6 + [1] * 6),
        ("deep only", [1] * 6 + [0] * 6),
        ("ramp to shallow", [i / 11 for i in range(12)]),
        ("ramp to deep", [1 - i / 11 for i in range(12)]),
        ("custom", [0.5, 0, 1] * 4),
    ],
)
def test_block_weights(pack, preset, expected):
    text = ", ".join(map(str, expected)) if preset == "custom" else ""
    weights = pack.nodes["SCEditBlockWeights"].execute(preset, text).args[0]
    assert weights.for_blocks(12) == pytest.approx(expected)
    tuner, model = sc_tuner(pack), small_model()
    for b, adapter in tuner.tuner.tuners.items():
        adapter.up.weight.mul_(expected[int(b)])
        adapter.up.bias.mul_(expected[int(b)])
    weighted = apply_sc(pack, model, sc_tuner(pack), block_weights=weights)
    assert relative(sample(weighted), sample(apply_sc(pack, model, tuner))) < 1e-5


def test_wrong_block_weights_are_refused(pack):
    node, model = pack.nodes["SCEditBlockWeights"], small_model()
    for text in ("", "1, x, 2", "1,,2", "nan", "1, inf"):
        with pytest.raises(pack.core.SCEditError, match="expected numbers between commas"):
            node.execute("custom", text)
    nine = node.execute("custom", ",".join(["1"] * 9)).args[0]
    with pytest.raises(pack.core.SCEditError, match="expected 12 numbers for this U-Net, found 9"):
        apply_sc(pack, model, sc_tuner(pack), block_weights=nine)


def test_merging_is_exact_and_keeps_to_one_family(pack):
    node, model = pack.nodes["SCEditMergeSCTuners"], small_model()
    a, b = sc_tuner(pack, 21), sc_tuner(pack, 22, blocks=[0, 5, 11])
    merged = node.execute(a, 0.7, b, 0.3, a, -0.2, None, 1.0).args[0]
    chained = apply_sc(pack, apply_sc(pack, apply_sc(pack, model, a, 0.7), b, 0.3), a, -0.2)
    assert relative(sample(apply_sc(pack, model, merged)), sample(chained)) < 1e-5
    assert merged.tuner.hidden()[5] == 3 * layout(pack).channels[5]
    assert merged.tuner.hidden()[4] == 2 * layout(pack).channels[4]
    with pytest.raises(pack.core.SCEditError, match="merge: expected a tuner for"):
        node.execute(a, 1.0, sc_tuner(pack, family="sdxl"), 1.0)


def test_saving_keeps_metadata_and_never_half_a_file(pack, scedit_folder):
    node, tuner = pack.nodes["SCEditSaveTuner"], sc_tuner(pack, metadata={"scedit.resolution": "512", "mine": "kept"})
    out = node.execute(tuner, "mine/ink", "as it is", False, "Ink", "a note")
    path = scedit_folder / "mine" / "ink.safetensors"
    assert out.args[0] == str(path)
    loaded = load(pack, "SCEditLoadSCTuner", os.path.join("mine", "ink.safetensors")).tuner
    assert torch.equal(loaded.tuners["7"].down.weight, tuner.tuner.tuners["7"].down.weight)
    added = {"mine": "kept", "scedit.resolution": "512", "modelspec.title": "Ink", "modelspec.description": "a note"}
    assert added.items() <= loaded.metadata.items()
    with pytest.raises(pack.core.SCEditError, match="expected a name that is not taken"):
        node.execute(tuner, "mine/ink", "as it is", False)
    node.execute(tuner, "mine/ink.safetensors", "float16", True)
    halved = load(pack, "SCEditLoadSCTuner", os.path.join("mine", "ink.safetensors")).tuner
    assert halved.dtype == torch.float16
    node.execute(csc_tuner(pack), "edges", "bfloat16", False)
    assert load(pack, "SCEditLoadCSCTuner", "edges.safetensors").tuner.tuner.dtype == torch.bfloat16
    for name in ("../outside", "/outside", "", "a/../../b", "mine/", "a\0b"):
        with pytest.raises(pack.core.SCEditError, match="expected a file name inside"):
            node.execute(tuner, name, "as it is", True)
    assert not (scedit_folder.parent / "outside.safetensors").exists()


def test_info_tells_what_a_tuner_is(pack, scedit_folder):
    node = pack.nodes["SCEditTunerInfo"]
    condition = '{"type": "canny", "low": 100}'
    notes = {"scedit.condition": condition, "scedit.prediction": "epsilon", "scedit.resolution": "512"}
    text = node.execute(csc_tuner(pack, metadata=notes)).args[0]
    for part in ("Controllable SC-Tuner", "condition: canny (low 100)", "prediction: epsilon", "resolution: 512"):
        assert part in text
    text = node.execute(sc_tuner(pack)).args[0]
    for part in ("kind: SC-Tuner", "12 of 12 skips", "trained resolution: not stated", "source: sc21"):
        assert part in text
    pack.core.save_tuner(sc_tuner(pack).tuner, scedit_folder / "mine.safetensors")
    text = node.execute(load(pack, "SCEditLoadSCTuner", "mine.safetensors")).args[0]
    assert "source: models/scedit/mine.safetensors" in text.split("\n")
    with pytest.raises(pack.core.SCEditError, match="expected one from Load SC-Tuner or Load CSC-Tuner, found a str"):
        node.execute("text")


def test_a_group_that_cannot_be_imported_takes_no_other_with_it(pack, caplog):
    name = f"{PACK_NAME}.nodes.tuner_files"
    kept = sys.modules[name]
    sys.modules[name] = None  # what the import system takes for "cannot be imported"
    try:
        with caplog.at_level(logging.ERROR):
            found = asyncio.run(pack.extension.SCEditExtension().get_node_list())
    finally:
        sys.modules[name] = kept
    lost = {"SCEditTunerInfo", "SCEditMergeSCTuners", "SCEditSaveTuner"}
    assert {node.GET_SCHEMA().node_id for node in found} == set(pack.nodes) - lost
    assert "Traceback" in caplog.text
    assert "SCEditTunerInfo, SCEditMergeSCTuners, SCEditSaveTuner not available" in caplog.text


def test_without_cv2_or_transformers_the_pack_loads(models_folder):
    """In a process of its own, where neither can be imported; the host itself wants transformers, so it comes first."""
    script = (
        "import sys, conftest, asyncio, nodes\n"  # the host has its own imports done before a pack's
        "gone = ('cv2', 'transformers')\n"
        "for name in [name for name in sys.modules if name.split('.')[0] in gone] + list(gone):\n"
        "    sys.modules[name] = None\n"
        "import folder_paths\n"
        f"folder_paths.models_dir = {str(models_folder)!r}\n"
        "pack = conftest.load_pack()\n"
        "nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())\n"
        "print(sorted(node.GET_SCHEMA().node_id for node in nodes))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=os.path.dirname(__file__)
    )
    assert done.returncode == 0, done.stderr
    for name in IDS:
        assert name in done.stdout
    lost = ("Canny", "ColorPalette", "SoftEdge", "Depth", "Pose", "Segmentation")
    for name in (f"SCEdit{each}" for each in lost):
        assert name not in done.stdout
        assert re.search(rf"{name}\b.* not available", done.stderr)
    assert "SCEditCompletion" in done.stdout
