"""Foreign formats: every layout of keys that is known is recognised by its keys, and what looks alike is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from scedit_core import CSCTuner, SCTuner, SkipLayout, TunerFileError, inspect_tuner, load_tuner, save_tuner
from scedit_core.converting import convert_tuner, digest
from scedit_core.files import read_tuner, tuner_names, tuner_path

NARROW_SD = SkipLayout.from_channels((32,) * 5 + (16,) * 3 + (8,) * 4)
NARROW_SDXL = SkipLayout.from_channels((32,) * 2 + (16,) * 3 + (8,) * 4)
AUTHORS = {"down": "ln1", "up": "ln2"}


def authors_names(tuner, place) -> dict[str, torch.Tensor]:
    """An SC-Tuner's weights under the authors' names; `place` gives what stands before ln1 for block b."""
    renamed = {}
    for name, tensor in tuner.to_file().items():
        _, b, layer, kind = name.split(".")
        renamed[f"{place(int(b))}.{AUTHORS[layer]}.{kind}"] = tensor
    return renamed


def csc_names(tuner, prefix="") -> dict[str, torch.Tensor]:
    """A CSC-Tuner's weights under SCEPTER's names."""
    renamed = {}
    for name, tensor in tuner.to_file().items():
        part, b, layer, *kind = name.split(".")
        if part == "tuners":
            renamed[f"{prefix}lsc_tuner_blocks.{b}.tuner_op.{AUTHORS[layer]}.{kind[0]}"] = tensor
        elif b == "stem":
            renamed[f"{prefix}pre_hint_blocks.{2 * int(layer)}.{kind[0]}"] = tensor
        else:
            renamed[f"{prefix}dense_hint_blocks.{layer}.1.{kind[0]}"] = tensor
    return renamed


def up_block(b: int) -> str:
    return f"up_blocks.{b // 3}.resnets.{b % 3}"


SC_LAYOUTS = {
    "scepter": lambda b: f"lsc_identity.{b}.tuner_op",
    "scepter-model": lambda b: f"model.lsc_identity.{b}.tuner_op",
    "swift": lambda b: f"model.lsc_identity.{b}.scetuner_0_SwiftSCETuning.tuner_op",
    "swift-diffusers": lambda b: f"{up_block(b)}.scetuner_default.tuner_op",
    "swift-diffusers-unet": lambda b: f"unet.{up_block(b)}.scetuner_my.adapter.tuner_op",
}


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
@pytest.mark.parametrize("options", [{}, {"ratio": 0.5}, {"blocks": [0, 3, 10]}], ids=["full", "half", "untouched"])
@pytest.mark.parametrize("layout", [NARROW_SD, NARROW_SDXL], ids=["sd", "sdxl"])
@pytest.mark.parametrize("form", SC_LAYOUTS)
def test_sc_tuners_of_every_format_load(make_sc, tmp_path, form, layout, options, suffix):
    if "blocks" in options:
        options = {"blocks": [b for b in (0, 3, 7, 10) if b < len(layout)]}
    tuner = make_sc(layout=layout, **options)
    tensors, path = authors_names(tuner, SC_LAYOUTS[form]), tmp_path / f"weights{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    file = read_tuner(path)
    assert (file.kind, file.layout) == ("sc", layout)
    assert form.startswith(file.source)
    assert digest(file.tensors) == digest(tuner.to_file())


@pytest.mark.parametrize("prefix", ["", "0.", "model.", "0.model.", "model.0.", "model.control_blocks.0."])
@pytest.mark.parametrize(("kernel", "ratio"), [(1, 1.0), (3, 0.5)])
def test_csc_tuners_load_with_every_prefix(make_csc, tmp_path, prefix, kernel, ratio):
    tuner = make_csc(layout=NARROW_SDXL, kernel=kernel, ratio=ratio, hint_ratio=2, stem_width=320)
    torch.save(csc_names(tuner, prefix), tmp_path / "pytorch_model.bin")
    loaded = load_tuner(tmp_path / "pytorch_model.bin")
    assert isinstance(loaded, CSCTuner)
    assert loaded.layout == NARROW_SDXL
    assert digest(loaded.to_file()) == digest(tuner.to_file())


def test_scedit_pytorch_loads_with_its_adapters_in_order(make_sc, tmp_path):
    tuner, renamed = make_sc(layout=NARROW_SD), {}
    for name, tensor in tuner.to_file().items():
        _, b, layer, kind = name.split(".")
        renamed[f"up_blocks.{int(b) // 3}.sc_tuners.{int(b) % 3}.{layer}.{kind}"] = tensor
    save_file(renamed, tmp_path / "pytorch_scedit_weights.safetensors", {"format": "pt"})
    file = read_tuner(tmp_path)
    assert (file.source, file.layout) == ("scedit-pytorch", NARROW_SD)
    assert digest(file.tensors) == digest(tuner.to_file())


def test_adapters_saved_as_convolutions_load(make_sc, tmp_path):
    tuner = make_sc(layout=NARROW_SD)
    save_file({k: v.detach() for k, v in tuner.state_dict().items()}, tmp_path / "module.safetensors")
    assert digest(load_tuner(tmp_path / "module.safetensors").to_file()) == digest(tuner.to_file())


# --- several tuners, folders, sidecars ----------------------------------------------------------------------------


def test_a_file_with_several_controls_lists_them(make_csc, tmp_path, one_sentence):
    path = tmp_path / "pytorch_model.bin"
    first, second = make_csc(1, layout=NARROW_SD), make_csc(2, layout=NARROW_SD, kernel=3)
    torch.save({**csc_names(first, "0."), **csc_names(second, "1.")}, path)
    sidecar = {"CONTROL_MODEL": [{"SCALE": 0.5}, {"SCALE": 0.25}]}
    (tmp_path / "configuration.json").write_text(json.dumps(sidecar))
    assert tuner_names(path) == ["0", "1"]
    with pytest.raises(TunerFileError) as raised:
        load_tuner(path)
    one_sentence(raised, "0, 1")
    loaded = load_tuner(path, name="1")
    assert loaded.scale == 0.25
    assert digest(loaded.to_file()) == digest(second.to_file())
    assert inspect_tuner(path, "0")["metadata"]["scedit.scale"] == "0.5"


def test_a_file_with_several_swift_adapters_lists_them(make_sc, tmp_path):
    one, two = make_sc(1, layout=NARROW_SD), make_sc(2, layout=NARROW_SD, ratio=0.5)
    tensors = {}
    for name, tuner in (("ink", one), ("oil", two)):
        tensors |= authors_names(tuner, lambda b, n=name: f"{up_block(b)}.scetuner_{n}.tuner_op")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert tuner_names(tmp_path) == ["ink", "oil"]
    assert digest(load_tuner(tmp_path, name="oil").to_file()) == digest(two.to_file())


def test_a_released_folder_loads_as_it_was_downloaded(make_sc, tmp_path, one_sentence):
    folder = tmp_path / "SD2.1" / "flat2d"
    (folder / "0_SwiftSCETuning").mkdir(parents=True)
    (folder / "1_SwiftLoRA").mkdir()
    tuner = make_sc(layout=NARROW_SD)
    save_file(authors_names(tuner, SC_LAYOUTS["swift"]), folder / "0_SwiftSCETuning" / "adapter_model.safetensors")
    lora = {"model.encoder.layers.0.lora_A.1_SwiftLoRA.weight": torch.zeros(4, 8)}
    save_file(lora, folder / "1_SwiftLoRA" / "adapter_model.safetensors")
    for path in (folder, folder / "0_SwiftSCETuning"):
        assert digest(load_tuner(path).to_file()) == digest(tuner.to_file())
        assert tuner_names(path) == ["0_SwiftSCETuning"]
    with pytest.raises(TunerFileError) as raised:
        load_tuner(folder / "1_SwiftLoRA")
    one_sentence(raised, "Load LoRA")


def test_a_folder_of_several_adapters_asks_for_a_name(make_sc, tmp_path, one_sentence):
    for name in ("ink", "oil"):
        save_tuner(make_sc(), tmp_path / name / "tuner.safetensors")
    with pytest.raises(TunerFileError) as raised:
        load_tuner(tmp_path)
    one_sentence(raised, "ink, oil")
    assert tuner_names(tmp_path) == ["ink", "oil"]
    assert tuner_path(tmp_path, "oil") == tmp_path / "oil" / "tuner.safetensors"
    assert load_tuner(tmp_path, name="oil").kind == "sc"


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ('{"CONTROL_MODEL": {"SCALE": 0.7}}', 0.7),
        ('{"NAME": "CSCTuners", "SCALE": 0.3}', 0.3),
        ('{"CONTROL_MODEL": {"SCALE": "NaN"}}', 1.0),
        ('{"CONTROL_MODEL": {"SCALE": NaN}}', 1.0),
        ('{"CONTROL_MODEL": [[[[]]]]}', 1.0),
        ("[" * 100_000, 1.0),
        ("not json", 1.0),
    ],
    ids=["released", "trained", "text", "nan", "lists", "deep", "no-json"],
)
def test_the_scale_beside_a_control_is_read_and_never_required(make_csc, tmp_path, text, scale):
    torch.save(csc_names(make_csc(layout=NARROW_SD), "0."), tmp_path / "pytorch_model.bin")
    (tmp_path / "configuration.json").write_text(text)
    assert load_tuner(tmp_path).scale == scale


# --- families -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released_sd(tmp_path_factory):
    """An SC-Tuner file of the released shape (1280 to 320 channels) that is small: hidden width 1."""
    layout = SkipLayout.from_channels((1280,) * 5 + (640,) * 3 + (320,) * 4)
    tensors = authors_names(SCTuner(layout, hidden=dict.fromkeys(range(12), 1)), SC_LAYOUTS["swift"])

    def write(folder: str, sidecar=None, metadata=None):
        path = tmp_path_factory.mktemp("f") / folder / "adapter_model.safetensors"
        path.parent.mkdir(parents=True)
        save_file(tensors, path, metadata)
        if sidecar is not None:
            (path.parent / "adapter_config.json").write_text(json.dumps(sidecar))
        return path

    return write


@pytest.mark.parametrize(
    ("folder", "sidecar", "metadata", "family"),
    [
        ("style", None, None, "sd1-or-sd2"),
        ("SD1.5/style/0_SwiftSCETuning", None, None, "sd1"),
        ("SD2.1/style/0_SwiftSCETuning", None, None, "sd2"),
        ("style", None, {"base": "stabilityai/stable-diffusion-2-1"}, "sd2"),
        ("SD2.1/style", {"base_model": "runwayml/stable-diffusion-v1-5"}, {"base": "sd2"}, "sd1"),
        ("SD_XL1.0/style", None, None, "sd1-or-sd2"),
        ("from sd1 to sd2", None, None, "sd1-or-sd2"),
    ],
    ids=["nothing", "path-1.5", "path-2.1", "metadata", "sidecar-first", "shapes-over-names", "both"],
)
def test_sd15_and_sd21_are_told_apart_by_what_stands_beside(released_sd, folder, sidecar, metadata, family):
    path = released_sd(folder, sidecar, metadata)
    assert inspect_tuner(path)["family"] == family
    assert inspect_tuner(convert_tuner(path, path.parent / "own.safetensors", "scedit").path)["family"] == family


# --- what looks alike ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("down_blocks.0.resnets.1.scetuner_default.tuner_op.ln1.weight", "encoder mode"),
        ("mid_block.resnets.0.scetuner_default.tuner_op.ln1.weight", "encoder mode"),
        ("up_blocks.0.sc_tuners.1.model.0.weight", "three layers"),
        ("lora_unet_up_blocks_0_attentions_0.lora_down.weight", "Load LoRA"),
        ("control_model.input_blocks.0.0.weight", "SC-Tuner or CSC-Tuner"),
    ],
)
def test_what_edits_something_else_is_refused(tmp_path, one_sentence, key, word):
    save_file({key: torch.zeros(32, 32)}, tmp_path / "w.safetensors")
    with pytest.raises(TunerFileError) as raised:
        load_tuner(tmp_path / "w.safetensors")
    one_sentence(raised, word)


def test_encoder_mode_in_the_sidecar_is_refused(make_sc, tmp_path, one_sentence):
    tensors = authors_names(make_sc(layout=NARROW_SD), SC_LAYOUTS["swift-diffusers"])
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"tuner_mode": "encoder"}')
    with pytest.raises(TunerFileError) as raised:
        load_tuner(tmp_path)
    one_sentence(raised, "encoder", "adapter_model.safetensors")


def test_the_same_weight_under_two_keys_is_refused(make_sc, tmp_path, one_sentence):
    tensors = authors_names(make_sc(layout=NARROW_SD), SC_LAYOUTS["scepter"])
    twice = tensors | {f"model.{k}": v.clone() for k, v in tensors.items()}
    torch.save(twice, tmp_path / "w.bin")
    with pytest.raises(TunerFileError) as raised:
        load_tuner(tmp_path / "w.bin")
    one_sentence(raised)
