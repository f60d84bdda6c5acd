"""The pack's own format: what is saved comes back, and what is no tuner is refused in one sentence."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scedit_core import CSCTuner, SCTuner, SkipLayout, TunerFileError, inspect_tuner, load_tuner, save_tuner
from scedit_core.converting import convert_tuner

NARROW_SD = SkipLayout.from_channels((32,) * 5 + (16,) * 3 + (8,) * 4)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def metadata_of(path) -> dict[str, str]:
    with safe_open(path, framework="pt") as opened:
        return opened.metadata()


@pytest.fixture(params=["sc", "csc-1", "csc-3"])
def tuner(request, make_sc, make_csc):
    notes = {"scedit.condition": '{"type": "canny"}', "scedit.scale": "0.8", "modelspec.title": "Ölfarbe 油絵"}
    if request.param == "sc":
        return make_sc(ratio=0.5, blocks=[0, 3, 8], metadata=notes)
    return make_csc(ratio=0.5, blocks=[2, 8], kernel=int(request.param[-1]), stem_width=320, metadata=notes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_save_load_save_keeps_tensors_and_metadata(tuner, tmp_path, dtype):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert save_tuner(tuner, first, dtype=dtype) == first
    loaded = load_tuner(first)
    save_tuner(loaded, second)
    one, two = load_file(first), load_file(second)
    assert list(one) == list(two)
    assert all(torch.equal(one[k], two[k]) and one[k].dtype == two[k].dtype == dtype for k in one)
    assert metadata_of(first) == metadata_of(second)
    assert metadata_of(first).items() >= tuner.metadata.items()
    assert type(loaded) is type(tuner)
    assert (loaded.layout, loaded.blocks, loaded.hidden()) == (tuner.layout, tuner.blocks, tuner.hidden())
    expected = {k: v.to(dtype) for k, v in tuner.state_dict().items()}
    assert all(torch.equal(v, expected[k]) for k, v in loaded.state_dict().items())


def test_the_file_has_the_documented_names_and_shapes(make_csc, tmp_path):
    tuner = make_csc(ratio=0.5, blocks=[8], kernel=3)
    shapes = {k: tuple(v.shape) for k, v in load_file(save_tuner(tuner, tmp_path / "t.safetensors")).items()}
    assert shapes["tuners.8.down.weight"] == (16, 32)
    assert shapes["tuners.8.up.weight"] == (32, 16)
    assert shapes["tuners.8.down.bias"] == (16,)
    assert shapes["hint.stem.6.weight"] == (256, 96, 3, 3)
    assert shapes["hint.dense.0.weight"] == (32, 256, 3, 3)
    assert sorted({k.split(".")[2] for k in shapes if k.startswith("hint.dense.")}, key=int) == list("012345678")
    notes = metadata_of(tmp_path / "t.safetensors")
    assert (notes["scedit.format"], notes["scedit.kind"], notes["scedit.family"]) == ("1", "csc", "custom")
    assert json.loads(notes["scedit.channels"]) == list(tuner.layout.channels)
    assert json.loads(notes["scedit.strides"]) == list(tuner.layout.strides)


def test_a_loaded_tuner_computes_what_the_saved_one_did(tuner, tmp_path, hint):
    loaded = load_tuner(save_tuner(tuner, tmp_path / "t.safetensors"))
    b = tuner.blocks[-1]
    skip = torch.randn(1, tuner.layout.channels[b], 16, 16)
    if isinstance(tuner, SCTuner):
        assert torch.equal(loaded.residual(b, skip), tuner.residual(b, skip))
    else:
        g, h = loaded.encode_hint(hint), tuner.encode_hint(hint)
        assert torch.equal(g[b], h[b])
        assert torch.equal(loaded.residual(b, skip, g[b]), tuner.residual(b, skip, h[b]))
        assert loaded.scale == 0.8


def test_inspect_tells_what_a_file_is(make_sc, tmp_path):
    path = save_tuner(make_sc(ratio=0.5, blocks=[0, 8]), tmp_path / "t.safetensors", {"scedit.resolution": "128"})
    found = inspect_tuner(path)
    expected = {"kind": "sc", "format": "scedit", "family": "custom", "blocks": [0, 8], "hidden": [32, 16]}
    assert found.items() >= {**expected, "dtype": "float32", "path": str(path)}.items()
    assert found["parameters"] == 2 * (64 * 32 + 32 * 16) + 64 + 32 + 32 + 16
    assert found["metadata"]["scedit.resolution"] == "128"


def test_mixed_dtypes_become_float32(make_sc, tmp_path):
    tensors = {k: v.half() if k.endswith("weight") else v.detach() for k, v in make_sc().to_file().items()}
    notes = metadata_of(save_tuner(make_sc(), tmp_path / "t.safetensors"))
    save_file(tensors, tmp_path / "mixed.safetensors", notes)
    tuner = load_tuner(tmp_path / "mixed.safetensors")
    assert {p.dtype for p in tuner.parameters()} == {torch.float32}
    assert all(torch.equal(v, tensors[k].float()) for k, v in tuner.to_file().items())
    assert inspect_tuner(tmp_path / "mixed.safetensors")["dtype"] == "float16, float32"


# --- lazy reading -------------------------------------------------------------------------------------------------


@pytest.fixture
def released_size(tmp_path):
    """A CSC-Tuner file of the released size, 396 MB of float32 zeros that take no room on the disk."""
    tuner = CSCTuner(SkipLayout.from_channels((1280,) * 5 + (640,) * 3 + (320,) * 4), kernel=3, device="meta")
    header, end = {}, 0
    for name, tensor in tuner.to_file().items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + tensor.numel() * 4]}
        end += tensor.numel() * 4
    text = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)
    return path


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's account of what is read")
def test_inspecting_400_mb_reads_the_header_alone(released_size):
    """Neither by reading nor, which shows as page faults, by mapping: 400 MB are 100 000 pages."""
    import resource  # Windows has none

    def read() -> tuple[int, int]:
        (line,) = (each for each in Path("/proc/self/io").read_text().splitlines() if each.startswith("rchar:"))
        return int(line.split()[1]), resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    assert released_size.stat().st_size == pytest.approx(396.5e6, rel=0.01)
    inspect_tuner(released_size)
    before = read()
    found = inspect_tuner(released_size)
    bytes_read, faults = (b - a for a, b in zip(before, read(), strict=True))
    assert (found["kind"], found["parameters"]) == ("csc", 99_111_760)
    assert bytes_read < 2**20
    assert faults < 2000


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_loading_maps_the_file_and_copies_nothing(tmp_path, suffix):
    """Mapped weights are pages of the file; copies would be anonymous memory."""

    def anonymous() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

    layout = SkipLayout.from_channels((512,) * 5 + (256,) * 3 + (128,) * 4)
    path = save_tuner(SCTuner(layout, ratio=4), tmp_path / "large.safetensors")
    if suffix == ".bin":
        path = convert_tuner(path, tmp_path / "large.bin", "scepter").path
    size = path.stat().st_size
    load_tuner(path)
    gc.collect()
    before = anonymous()
    loaded = load_tuner(path)
    assert sum(p.numel() * 4 for p in loaded.parameters()) > 0.99 * size
    assert anonymous() - before < 0.1 * size


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_changing_loaded_weights_does_not_change_the_file(make_sc, tmp_path, suffix):
    path = save_tuner(make_sc(layout=NARROW_SD), tmp_path / "t.safetensors")
    if suffix == ".bin":
        path = convert_tuner(path, tmp_path / "t.bin", "scepter").path
    before, tuner = path.read_bytes(), load_tuner(path)
    for parameter in tuner.parameters():
        parameter.zero_()
    assert path.read_bytes() == before
    assert all(p.abs().max() > 0 for p in load_tuner(path).parameters())


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.fixture
def good(make_sc, tmp_path):
    """The bytes of a good file."""
    return save_tuner(make_sc(blocks=[0, 8]), tmp_path / "good.safetensors").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_files_are_refused(good, tmp_path, one_sentence, share):
    path = tmp_path / "short.safetensors"
    path.write_bytes(good[: int(len(good) * share)])
    with pytest.raises(TunerFileError) as raised:
        load_tuner(path)
    one_sentence(raised, "short.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not a tuner at all, but a text of some length", bytes(4096)])
def test_files_of_other_kinds_are_refused(tmp_path, one_sentence, content, suffix):
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(TunerFileError) as raised:
        load_tuner(path)
    one_sentence(raised, path.name)


def test_other_peoples_weights_are_refused(tmp_path, one_sentence):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_mid_block.lora_down.weight": torch.zeros(4, 8)}, path)
    with pytest.raises(TunerFileError) as raised:
        load_tuner(path)
    one_sentence(raised, "lora_unet_mid_block")


def test_missing_files_and_wrong_endings_are_refused(tmp_path, one_sentence):
    (tmp_path / "picture.png").write_bytes(b"png")
    (tmp_path / "empty").mkdir()
    for name in ("nothing.safetensors", "picture.png", "empty"):
        with pytest.raises(TunerFileError) as raised:
            load_tuner(tmp_path / name)
        one_sentence(raised, name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tuners.0.up.weight", None),
        ("tuners.0.up.weight", torch.zeros(64, 7)),
        ("tuners.0.down.weight", torch.full((64, 64), float("nan"))),
        ("tuners.0.down.bias", torch.full((64,), float("inf"))),
        ("tuners.0.down.weight", torch.zeros(64, 64, dtype=torch.int8)),
        ("tuners.0.down.weight", torch.zeros(64, 64, dtype=torch.float64)),
        ("tuners.0.down.bias", torch.zeros(())),
        ("tuners.0.down.bias", torch.zeros(0)),
        ("tuners.9.down.weight", torch.zeros(64, 64)),
        ("something.else", torch.zeros(3)),
    ],
    ids=["no-up", "up-shape", "nan", "inf", "int8", "float64", "scalar", "empty", "block-9", "foreign"],
)
def test_damaged_weights_are_refused(good, tmp_path, one_sentence, key, value):
    tensors, notes = load_file(tmp_path / "good.safetensors"), metadata_of(tmp_path / "good.safetensors")
    if value is None:
        del tensors[key]
    else:
        tensors[key] = value
    save_file(tensors, tmp_path / "bad.safetensors", notes)
    with pytest.raises(TunerFileError) as raised:
        load_tuner(tmp_path / "bad.safetensors")
    one_sentence(raised, "bad.safetensors")


def test_a_newer_format_version_is_refused(good, tmp_path, one_sentence):
    notes = {**metadata_of(tmp_path / "good.safetensors"), "scedit.format": "2"}
    save_file(load_file(tmp_path / "good.safetensors"), tmp_path / "new.safetensors", notes)
    with pytest.raises(TunerFileError) as raised:
        load_tuner(tmp_path / "new.safetensors")
    one_sentence(raised, "update")


def test_only_safetensors_are_written(make_sc, tmp_path, one_sentence):
    with pytest.raises(TunerFileError) as raised:
        save_tuner(make_sc(), tmp_path / "tuner.bin")
    one_sentence(raised, ".safetensors")
    assert list(tmp_path.iterdir()) == []
