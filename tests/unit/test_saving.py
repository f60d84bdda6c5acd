"""A save that fails leaves the old file as it was: disk full, folder read-only, process killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from scedit_core import SCTuner, SkipLayout, TunerFileError, load_tuner, save_tuner
from scedit_core.converting import convert_tuner, digest

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits, users and signals")


@pytest.fixture
def old(make_sc, tmp_path):
    """An old file in its place."""
    return save_tuner(make_sc(1), tmp_path / "tuner.safetensors")


def leftovers(folder: Path) -> list[str]:
    return [f.name for f in folder.iterdir() if f.name.endswith(".tmp")]


def test_the_same_tuner_is_the_same_file(make_sc, tmp_path):
    notes = {"a": 'a line\nand a "quote" \\ \x01', "z": "\u732b", **{f"key {i}": str(i) for i in range(20)}}
    tuner = make_sc(1)
    files = [save_tuner(tuner, tmp_path / f"{i}.safetensors", dict(reversed(notes.items()))) for i in range(5)]
    assert len({file.read_bytes() for file in files}) == 1
    read = load_tuner(files[0])
    assert {key: read.metadata[key] for key in notes} == notes
    assert all(torch.equal(p, read.state_dict()[name]) for name, p in tuner.state_dict().items())


@posix
def test_a_full_disk_leaves_the_old_file(old, make_sc, one_sentence):
    """The limit on file sizes makes writes fail midway, as a full disk does."""
    import resource

    before, limits = old.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(TunerFileError) as raised:
            save_tuner(make_sc(2), old)
        with pytest.raises(TunerFileError) as converted:
            convert_tuner(old, old.with_name("other.bin"), "scepter")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    one_sentence(raised, "tuner.safetensors")
    one_sentence(converted, "other.bin")
    assert old.read_bytes() == before
    assert [f.name for f in old.parent.iterdir()] == ["tuner.safetensors"]


@posix
def test_a_read_only_folder_leaves_the_old_file(make_sc, one_sentence):
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    try:
        old = save_tuner(make_sc(1), folder / "tuner.safetensors")
        before = old.read_bytes()
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # nobody: root may write everywhere
        try:
            with pytest.raises(TunerFileError) as raised:
                save_tuner(make_sc(2), old)
        finally:
            os.seteuid(user)
        one_sentence(raised, "tuner.safetensors")
        assert old.read_bytes() == before
        assert leftovers(folder) == []
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_file_in_place_of_the_folder_is_told(old, make_sc, one_sentence):
    with pytest.raises(TunerFileError) as raised:
        save_tuner(make_sc(2), old / "inside.safetensors")
    one_sentence(raised, "inside.safetensors")


@posix
def test_a_file_that_another_program_holds_is_told_so(old, make_sc, monkeypatch, one_sentence):
    """As Windows answers where a host still maps the old file."""

    def refuse(*_):
        raise PermissionError(13, "The process cannot access the file")

    before = old.read_bytes()
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(TunerFileError, match="close what has it open, or choose another name or folder") as caught:
        save_tuner(make_sc(2), old)
    one_sentence(caught)
    assert old.read_bytes() == before
    assert leftovers(old.parent) == []


def test_a_killed_save_leaves_a_whole_file(tmp_path):
    """A process that saves two large tuners in turn is killed at random moments: one of them is always there."""
    layout = SkipLayout.from_channels((256,) * 5 + (128,) * 3 + (64,) * 4)
    path, code = tmp_path / "tuner.safetensors", (
        "import sys, torch\n"
        "from scedit_core import SCTuner, SkipLayout, save_tuner\n"
        f"layout = SkipLayout.from_channels({layout.channels})\n"
        "tuners = [SCTuner(layout, ratio=4), SCTuner(layout, ratio=4)]\n"
        "for seed, tuner in enumerate(tuners):\n"
        "    torch.manual_seed(seed)\n"
        "    [p.data.normal_() for p in tuner.parameters()]\n"
        "    save_tuner(tuner, sys.argv[1] + str(seed) + '.safetensors')\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for tuner in tuners:\n"
        "        save_tuner(tuner, sys.argv[1])\n"
    )  # fmt: skip
    rng = random.Random(0)
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        while not path.exists():
            time.sleep(0.01)
        whole = {digest(load_tuner(f"{path}{seed}.safetensors").to_file()) for seed in (0, 1)}
        for _ in range(8):  # as a reader sees it while the other writes
            time.sleep(rng.random() * 0.05)
            assert digest(load_tuner(path).to_file()) in whole
    finally:
        process.kill()
        process.wait()
    assert digest(load_tuner(path).to_file()) in whole


def test_saving_over_the_file_that_a_tuner_was_loaded_from_keeps_it(make_sc, tmp_path):
    """Loaded weights are mapped from the old file, which must live on until they are let go."""
    path = save_tuner(make_sc(1), tmp_path / "tuner.safetensors")
    loaded = load_tuner(path)
    before = digest(loaded.to_file())
    save_tuner(loaded, path, {"modelspec.title": "again"})
    save_tuner(make_sc(2), path)
    assert digest(loaded.to_file()) == before
    assert isinstance(load_tuner(path), SCTuner)


@posix
def test_a_saved_file_has_the_permissions_of_any_new_file(make_sc, tmp_path):
    """As the user's umask says."""
    before = os.umask(0o027)
    try:
        path = save_tuner(make_sc(1), tmp_path / "tuner.safetensors")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
