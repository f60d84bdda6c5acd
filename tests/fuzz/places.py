"""Hostile places: loops of links, folders where files belong, names of every kind, JSON beside the weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from seeds import NOTES, safetensors, tuners

_SIDECARS = {
    "deep": b"[" * 200_000,
    "deep-objects": b'{"a":' * 200_000,
    "text": b"no json",
    "latin1": b'{"CONTROL_MODEL": "\xff"}',
    "list": b"[]",
    "null": b"null",
    "scale-text": b'{"CONTROL_MODEL": {"SCALE": "a"}}',
    "scale-huge": b'{"CONTROL_MODEL": {"SCALE": 1e999}}',
    "scale-long": b'{"CONTROL_MODEL": {"SCALE": ' + b"9" * 4000 + b"}}",
    "scale-list": b'{"CONTROL_MODEL": [1, 2, 3]}',
    "mode-list": b'{"tuner_mode": ["encoder"]}',
    "mode-long": b'{"tuner_mode": "' + b"x" * 100_000 + b'"}',
    "large": b'{"a": "' + b"x" * 5_000_000 + b'"}',
    "many-strings": b"[" + b'"sd2",' * 20_000 + b'""]',
    "nul": b'{"SCALE": "\\u0000\\ud800"}',
}


def hostile_places(root: Path) -> Iterator[tuple[str, bytes]]:
    """Make them under `root`; yields (group, path) with paths as the bytes that the system knows."""
    root.mkdir()
    base = os.fsencode(root)
    good = safetensors(tuners()["own-sc"], NOTES)
    (root / "good.safetensors").write_bytes(good)
    for suffix in (b".safetensors", b".bin", b".pth", b"", b".txt"):
        here = base + b"/place" + suffix
        links = {
            b"-self": here + b"-self",
            b"-nowhere": base + b"/nowhere" + suffix,
            b"-good": base + b"/good.safetensors",
        }
        links |= {b"-loop-a": here + b"-loop-b" + suffix, b"-loop-b": here + b"-loop-a" + suffix}
        links |= {
            b"-zero": b"/dev/zero",
            b"-random": b"/dev/urandom",
            b"-null": b"/dev/null",
            b"-mem": b"/proc/self/mem",
        }
        links |= {b"-root": b"/", b"-up": base, b"-dot": b"."}
        for name, to in links.items():
            os.symlink(to, here + name + suffix)
            yield "links", here + name + suffix
        os.mkfifo(here + b"-fifo" + suffix)
        yield "not-a-file", here + b"-fifo" + suffix
        folder = here + b"-folder" + suffix
        os.makedirs(folder + b"/inner" + suffix + b"/adapter_model.safetensors/x")
        yield "folders", folder
        yield "folders", folder + b"/inner" + suffix
        os.symlink(folder, folder + b"/0_SwiftSCETuning")
        yield "folders", folder
        yield "not-there", here + b"-nothing" + suffix
        yield "not-there", base + b"/good.safetensors/inside" + suffix
    names = [
        b"\xff\xfe.safetensors",
        b"a\nb.safetensors",
        b"\xe2\x80\xae.safetensors",
        b" .safetensors",
        b"-rf.safetensors",
    ]
    names += [b"'\";$(x).safetensors", b"%s{0}.safetensors", b"\x1b[31m.safetensors", "ü油".encode() + b".safetensors"]
    names += [n.replace(b".safetensors", b".bin") for n in names]
    for name in names:
        with contextlib.suppress(OSError):  # not every file system takes every name
            Path(os.fsdecode(base + b"/" + name)).write_bytes(good)
            yield "names", base + b"/" + name
            yield "names", base + b"/missing-" + name
    yield from (("names", base + b"/" + n) for n in (b"x" * 300, b"y" * 5000, b"a\x00b.safetensors", b"../" * 2000))
    yield from (("names", n) for n in (b"", b"/", b".", b"~", b"\x00", b"//", b"/dev/stdin", b"http://x/y.safetensors"))
    csc = tuners()["scepter-csc"]
    for i, (name, text) in enumerate(_SIDECARS.items()):
        for j, sidecar in enumerate(("configuration.json", "adapter_config.json")):
            folder = root / f"sidecar-{i}-{j}-{name}"
            folder.mkdir()
            torch.save(csc, folder / "pytorch_model.bin")
            (folder / sidecar).write_bytes(text)
            yield "sidecars", os.fsencode(folder)
    for i, make in enumerate((os.mkdir, os.mkfifo, lambda p: os.symlink(p, p), lambda p: os.symlink("/dev/zero", p))):
        folder = root / f"sidecar-place-{i}"
        folder.mkdir()
        torch.save(csc, folder / "pytorch_model.bin")
        make(folder / "configuration.json")
        yield "sidecars", os.fsencode(folder)
