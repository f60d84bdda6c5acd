"""Conversion, pruning and merging: by the functions and by the command line."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scedit_core import CSCTuner, SCEditError, SkipLayout, TunerFileError, load_tuner, save_tuner
from scedit_core.__main__ import main
from scedit_core.converting import TARGETS, convert_tuner, digest, nil_blocks, without_blocks
from scedit_core.files import read_tuner

ROOT = Path(__file__).resolve().parents[2]
NARROW_SD = SkipLayout.from_channels((32,) * 5 + (16,) * 3 + (8,) * 4)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def target(folder, form: str, number: int):
    return folder / (f"{number}.safetensors" if form == "scedit" else f"{number}_{form}")


def chain(folder, source, forms):
    """Convert from one format to the next and return the last file."""
    for number, form in enumerate(forms):
        source = convert_tuner(source, target(folder, form, number), form).path
    return source


@pytest.mark.parametrize("pair", [*itertools.product(TARGETS, TARGETS)], ids="-to-".join)
@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, torch.float32), ({"ratio": 0.5, "blocks": [1, 4, 6, 11]}, torch.bfloat16)],
    ids=["full", "untouched"],
)
def test_sc_tuners_pass_through_every_pair_of_formats(make_sc, tmp_path, pair, options, dtype):
    source = save_tuner(make_sc(layout=NARROW_SD, **options), tmp_path / "source.safetensors", dtype=dtype)
    last = read_tuner(chain(tmp_path, source, (*pair, "scedit")))
    assert digest(last.tensors) == digest(read_tuner(source).tensors)
    assert last.layout == NARROW_SD


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_csc_tuners_pass_through_scepter_and_keep_their_scale(make_csc, tmp_path, kernel, dtype):
    tuner = make_csc(layout=NARROW_SD, kernel=kernel, metadata={"scedit.scale": "0.4"})
    source = save_tuner(tuner, tmp_path / "source.safetensors", dtype=dtype)
    last = chain(tmp_path, source, ("scepter", "scepter", "scedit"))
    assert digest(read_tuner(last).tensors) == digest(read_tuner(source).tensors)
    assert load_tuner(last).scale == 0.4


def test_the_digest_hears_every_bit(make_sc):
    tensors = make_sc().to_file()
    before = digest(tensors)
    flipped = {**tensors, "tuners.0.up.bias": tensors["tuners.0.up.bias"].clone()}
    flipped["tuners.0.up.bias"].view(torch.int32)[0] ^= 1
    assert digest(flipped) != before
    assert digest(dict(reversed(tensors.items()))) == before


def test_what_a_format_cannot_hold_is_refused(make_sc, make_csc, tmp_path, one_sentence):
    csc = save_tuner(make_csc(layout=NARROW_SD), tmp_path / "csc.safetensors")
    some = save_tuner(make_csc(layout=NARROW_SD, blocks=[0, 1]), tmp_path / "some.safetensors")
    mixed = save_tuner(make_sc(layout=NARROW_SD, hidden={0: 32, 1: 7}), tmp_path / "mixed.safetensors")
    for source, form in ((csc, "swift"), (csc, "swift-diffusers"), (some, "scepter"), (mixed, "scepter")):
        with pytest.raises(TunerFileError) as raised:
            convert_tuner(source, tmp_path / "out", form)
        one_sentence(raised)
    assert not (tmp_path / "out").exists()


def test_what_would_lose_something_is_refused_before_anything_is_written(make_sc, make_csc, tmp_path):
    control = make_csc(metadata={"scedit.scale": "0.5"})
    path = save_tuner(control, tmp_path / "control.safetensors")
    with pytest.raises(TunerFileError, match="expected a folder, which can hold the scale"):
        convert_tuner(path, tmp_path / "control.bin", "scepter")
    assert not (tmp_path / "control.bin").exists()
    style = make_sc()
    with torch.no_grad():
        next(style.parameters()).fill_(1e5)
    path = save_tuner(style, tmp_path / "style.safetensors")
    before = path.read_bytes()
    with pytest.raises(TunerFileError, match="expected another file than IN"):
        convert_tuner(path, path, "swift")
    with pytest.raises(TunerFileError, match=r"fit into float16.*bfloat16 or float32"):
        convert_tuner(path, path, "scedit", dtype=torch.float16)
    assert path.read_bytes() == before


@pytest.mark.parametrize("there", ["swift", "scepter", "scedit"])
def test_a_folder_that_holds_another_tuner_is_refused(make_sc, tmp_path, one_sentence, there):
    """One of both would be loaded, whichever the user means; the same file may be written again."""
    first, second = (save_tuner(make_sc(i, layout=NARROW_SD), tmp_path / f"{i}.safetensors") for i in range(2))
    folder, to = tmp_path / "folder", "swift" if there == "scepter" else "scepter"
    convert_tuner(first, folder / "any.safetensors" if there == "scedit" else folder, there)
    with pytest.raises(TunerFileError) as raised:
        convert_tuner(second, folder, to)
    one_sentence(raised, "name another")
    assert digest(read_tuner(folder).tensors) == digest(read_tuner(first).tensors)
    if there != "scedit":
        assert convert_tuner(second, folder, there).after == digest(read_tuner(folder).tensors)


def test_one_of_several_files_in_a_folder_has_to_be_named(make_sc, tmp_path, one_sentence, capsys):
    """The first of them may be any; `inspect` tells all."""
    for name in ("b", "a"):
        save_tuner(make_sc(), tmp_path / "tuners" / f"{name}.safetensors")
    for given, words in ((tmp_path / "tuners", ("a.safetensors, b.safetensors", "name one")), ("", ("an empty one",))):
        with pytest.raises(TunerFileError) as raised:
            convert_tuner(given, tmp_path / "new", "scepter")
        one_sentence(raised, *words)
    assert main(["inspect", str(tmp_path / "tuners")]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        str(tmp_path / "tuners" / f"{name}.safetensors") for name in "ab"
    ]
    (tmp_path / "tuners" / "a.safetensors").unlink()
    assert load_tuner(tmp_path / "tuners").kind == "sc"


def test_pruning_drops_blocks_whose_edit_is_nil(make_sc, make_csc, hint):
    sc, csc = make_sc(), make_csc()
    with torch.no_grad():
        for layer in (sc.tuners["2"].up, csc.tuners["2"].up, csc.tuners["5"].up, csc.hint.dense[8 - 5]):
            layer.weight.zero_()
            layer.bias.zero_()
    assert nil_blocks(sc) == [2]
    assert nil_blocks(csc) == [5]  # block 2 still adds its hint
    pruned = without_blocks(csc, [5])
    assert pruned.blocks == (0, 1, 2, 3, 4, 6, 7, 8)
    full, left = csc.encode_hint(hint), pruned.encode_hint(hint)
    assert all(torch.equal(left[b], full[b]) for b in pruned.blocks)
    assert csc.blocks == tuple(range(9))  # the one given is left as it was


@pytest.mark.parametrize("blocks", [[9], range(9), [-1]])
def test_pruning_refuses_what_leaves_nothing_or_is_not_there(make_sc, one_sentence, blocks):
    with pytest.raises(SCEditError) as raised:
        without_blocks(make_sc(), blocks)
    one_sentence(raised)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(make_sc, make_csc, tmp_path):
    sc = save_tuner(make_sc(layout=NARROW_SD), tmp_path / "style.safetensors")
    csc = save_tuner(make_csc(layout=NARROW_SD), tmp_path / "canny.safetensors")
    return sc, csc


def test_inspect_prints_a_table_and_json(files, capsys):
    assert main(["inspect", *map(str, files)]) == 0
    header, style, canny = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["kind", "format", "family"]
    assert style.split()[0] == "SC-Tuner"
    assert canny.split()[0] == "CSC-Tuner"
    assert "12 of 12" in style
    assert main(["inspect", "--json", str(files[1])]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["parameters"] == sum(p.numel() for p in CSCTuner(NARROW_SD, device="meta").parameters())


def test_inspect_goes_on_after_a_bad_file(files, capsys, tmp_path):
    assert main(["inspect", str(tmp_path / "none.bin"), str(files[0])]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "style.safetensors" in printed.out


def test_convert_prints_equal_digests(files, capsys, tmp_path):
    assert main(["convert", str(files[0]), str(tmp_path / "out"), "--to", "swift-diffusers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    before, after = (line.split()[-1] for line in lines[1:])
    assert before == after == digest(read_tuner(files[0]).tensors)
    half = str(tmp_path / "half.bin")
    assert main(["convert", str(tmp_path / "out"), half, "--to", "scepter", "--dtype", "float16"]) == 0
    assert load_tuner(half).dtype == torch.float16


def test_merge_is_the_weighted_sum(make_sc, tmp_path, capsys):
    tuners = [make_sc(1, layout=NARROW_SD), make_sc(2, layout=NARROW_SD, ratio=0.5, blocks=[0, 5])]
    paths = [str(save_tuner(t, tmp_path / f"{i}.safetensors")) for i, t in enumerate(tuners)]
    out = str(tmp_path / "merged.safetensors")
    assert main(["merge", *paths, "-o", out, "--weights", "0.7", "-0.3"]) == 0
    merged = load_tuner(out)
    for b, weights in ((0, (0.7, -0.3)), (3, (0.7, 0.0)), (5, (0.7, -0.3))):
        skip = torch.randn(1, NARROW_SD.channels[b], 4, 4)
        parts = [w * r for t, w in zip(tuners, weights, strict=True) if (r := t.residual(b, skip)) is not None]
        torch.testing.assert_close(merged.residual(b, skip), sum(parts), rtol=1e-5, atol=1e-5)


def test_prune_drops_the_named_blocks(files, tmp_path, capsys):
    out = tmp_path / "pruned.safetensors"
    assert main(["prune", str(files[0]), str(out), "--blocks", "0", "1"]) == 0
    assert "dropped blocks [0, 1]" in capsys.readouterr().out
    assert load_tuner(out).blocks == tuple(range(2, 12))
    assert main(["prune", str(files[1]), str(out)]) == 0
    assert "none" in capsys.readouterr().out


def test_the_module_runs_from_a_shell(files, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "scedit_core", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    bad = run("inspect", str(tmp_path / "nothing.bin"))
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: ")
    assert bad.stderr.count("\n") == 1
    good = run("inspect", str(files[0]), str(files[1]))
    assert (good.returncode, good.stderr) == (0, "")
    assert len(good.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "nothing.safetensors"],
        ["convert", "{sc}", "{dir}/out.txt/x.safetensors", "--to", "scedit"],
        ["convert", "{csc}", "{dir}/out", "--to", "swift"],
        ["convert", "{sc}", "{dir}/out.bin", "--to", "scedit"],
        ["merge", "{sc}", "{csc}", "-o", "{dir}/m.safetensors"],
        ["merge", "{sc}", "{sc}", "-o", "{dir}/m.safetensors", "--weights", "1"],
        ["prune", "{sc}", "{dir}/p.safetensors", "--blocks", "77"],
    ],
    ids=lambda a: " ".join(a)[:40],
)
def test_bad_input_is_one_sentence_and_exit_code_2(files, tmp_path, capsys, arguments):
    (tmp_path / "out.txt").write_text("a file where a folder is wanted")
    places = {"sc": files[0], "csc": files[1], "dir": tmp_path}
    assert main([a.format(**places) for a in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "expected" in printed.err
    assert "found" in printed.err


def test_a_name_that_the_terminal_cannot_write_is_escaped(make_sc, tmp_path):
    path = save_tuner(make_sc(), tmp_path / "\u732b.safetensors")
    command = [sys.executable, "-m", "scedit_core", "inspect", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0, done.stderr
    assert b"\\u732b" in done.stdout
