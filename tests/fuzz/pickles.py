"""Hostile `.bin` files: pickles that run code, archives that unpack to more than they are."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from headers import Case
from seeds import Tensors, tuners

_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")


def saved(tensors: object, **options) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer, **options)
    return buffer.getvalue()


def archive(program: bytes, members: dict[str, bytes] | None = None, compression=zipfile.ZIP_STORED) -> bytes:
    """A torch archive around a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as z:
        z.writestr("archive/data.pkl", program)
        z.writestr("archive/version", b"3\n")
        z.writestr("archive/byteorder", b"little")
        for name, content in (members or {"archive/data/0": bytes(256)}).items():
            z.writestr(name, content)
    return buffer.getvalue()


def running_code(canary: Path) -> Iterator[Case]:
    """Pickles that write the file `canary` when they are trusted."""
    command, python = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    calls = {
        "os.system": b"cos\nsystem\n(V" + command.encode() + b"\ntR.",
        "posix.system": b"cposix\nsystem\n(V" + command.encode() + b"\ntR.",
        "exec": b"c__builtin__\nexec\n(V" + python.encode() + b"\ntR.",
        "builtins.exec": b"cbuiltins\nexec\n(V" + python.encode() + b"\ntR.",
        "eval": b"cbuiltins\neval\n(V" + python.encode() + b"\ntR.",
        "inst": b"(V" + command.encode() + b"\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nV" + command.encode() + b"\no.",
        "stack-global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c"
        + bytes([len(command)])
        + command.encode()
        + b"\x85R.",
        "newobj": b"\x80\x02csubprocess\nPopen\n(]V/bin/sh\naV-c\naV" + command.encode() + b"\natR\x81.",
        "popen": b"csubprocess\nPopen\n((lV/bin/sh\naV-c\naV" + command.encode() + b"\natR.",
        "runpy": b"crunpy\n_run_code\n(V" + python.encode() + b"\n}tR.",
        "torch-jit": b"ctorch.jit\nload\n(V" + str(canary).encode() + b"\ntR.",
        "torch-load": b"ctorch\nload\n(V" + str(canary).encode() + b"\ntR.",
        "pickle-loads": b"cpickle\nloads\n(V" + command.encode() + b"\ntR.",
        "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nV__call__\ntR.",
        "codecs": b"c_codecs\nencode\n(Vx\nVlatin1\ntR.",
        "nested-name": b"\x80\x04\x8c\x08builtins\x8c\x09exec.exec\x93.",
        "numpy-file": b"cnumpy\nsave\n(V" + str(canary).encode() + b"\nK\x01tR.",
        "build": b"ccollections\nOrderedDict\n)R}V__reduce__\ncos\nsystem\nsb.",
        "dispatch": b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\nK\x00)))tR.",
        "bytearray": b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR.",
        "tensor": b"ctorch\nTensor\n(J\xff\xff\xff\x0fJ\xff\xff\xff\x0ftR.",
        "extension": b"\x82\x01.",
    }
    for name, program in calls.items():
        for i, suffix in enumerate(_SUFFIXES):
            yield "code", f"raw-{name}{suffix}", program if i else b"\x80\x02" + program.removeprefix(b"\x80\x02")
            yield "code", f"archive-{name}{suffix}", archive(program)
        wrapped = b"\x80\x02}X\x01\x00\x00\x00a" + program.removeprefix(b"\x80\x02").removesuffix(b".") + b"s."
        yield "code", f"inside-{name}.bin", archive(wrapped)
        yield "code", f"{name}.safetensors", program


def strange_pickles() -> Iterator[Case]:
    """Pickles that call nothing forbidden and are still no tuner."""
    tensors = tuners()["scepter-sc"]
    key = next(iter(tensors))
    t = tensors[key]
    objects: dict[str, object] = {
        "list": list(tensors.values()),
        "tensor": t,
        "none": None,
        "number": 5,
        "numbers": {1: t},
        "nested": {"model": tensors},
        "nested-deep": {"state_dict": {"state_dict": tensors}},
        "wrapped": {"state_dict": tensors},
        "no-tensors": dict.fromkeys(tensors, 1.0),
        "expanded": tensors | {key: torch.zeros(1).expand(10**6, 10**6)},
        "expanded-a-little": tensors | {key: torch.zeros(8, 1).expand(8, 8)},
        "transposed-view": {k: v.t() if v.ndim == 2 else v for k, v in tensors.items()},
        "shared": dict.fromkeys(tensors, t),
        "sparse": tensors | {key: t.to_sparse()},
        "quantised": tensors | {key: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)},
        "meta": tensors | {key: t.to("meta")},
        "complex": tensors | {key: t.to(torch.complex64)},
        "parameter": {k: torch.nn.Parameter(v) for k, v in tensors.items()},
        "numpy": {k: v.numpy() for k, v in tensors.items()},
        "float64": {k: v.double() for k, v in tensors.items()},
        "strings": dict.fromkeys(tensors, "x" * 1000),
        "long-key": {"x" * 200_000: t},
        "unprintable-key": {"\ud800\x1b[31m": t},
        "unprintable-scalar": tensors | {key.replace("lsc_", "\ud800"): t, key: torch.zeros(())},
        "sets": [set() for _ in range(1000)],
    }
    for name, value in objects.items():
        yield "pickle", f"{name}.bin", saved(value)
        yield (
            "pickle",
            f"{name}-legacy.bin",
            saved(value, _use_new_zipfile_serialization=False) if name != "meta" else b"",
        )
    programs = {
        "empty": b"", "stop": b".", "none": b"N.", "underflow": b"0.", "deep": b"]" * 100_000 + b".",
        "sets": b"\x8f" * 500_000 + b".", "too-long": b"]" * 600_000 + b".", "no-stop": b"]", "memo": b"h\xff.",
        "loop": b"]q\x00h\x00a.", "self": b"}q\x00X\x01\x00\x00\x00ah\x00s.", "persistent": b"(VstoragetQ.",
        "protocol": b"\x80\xff.", "frame": b"\x95" + b"\xff" * 8 + b".", "text": b"V\xff\xfe\n.",
        "int": b"I" + b"9" * 5000 + b"\n.",
        "bytes": b"\x8e" + struct.pack("<Q", 2**62) + b".", "string": b"X\xff\xff\xff\xff.",
        "long": b"\x8b\xff\xff\xff\x7f.",
        "tuples": b")" + b"\x85" * 100_000 + b".", "dup": b"]" + b"2a" * 50_000 + b".",
    }  # fmt: skip
    for name, program in programs.items():
        yield "pickle", f"program-{name}.bin", archive(program)
        yield "pickle", f"raw-{name}.pth", program
    rng = random.Random(2)
    good = zipfile.ZipFile(io.BytesIO(saved(tensors)))
    program = good.read(next(n for n in good.namelist() if n.endswith("data.pkl")))
    data = {n: good.read(n) for n in good.namelist() if "/data/" in n}
    for i in range(250):  # storages of other sizes, views of other strides, opcodes out of order
        bent = bytearray(program)
        for _ in range(rng.choice((1, 1, 2, 5))):
            bent[rng.randrange(len(bent))] = rng.randrange(256)
        yield "pickle-bent", f"{i}.bin", archive(bytes(bent), data)
    for i in range(100):
        opcodes = bytes(
            rng.choice(b"(.0120FIJKLMNPQRSTUVX]abcdeghijlopqrstu}\x80\x81\x85\x86\x87\x88\x89\x8c\x8f\x90\x93\x94")
            for _ in range(60)
        )
        yield "pickle-random", f"{i}.bin", archive(opcodes + b".")


def strange_archives() -> Iterator[Case]:
    """Archives that lie about what is in them."""
    tensors: Tensors = tuners()["scepter-sc"]
    good = saved(tensors)
    zeros = bytes(2**28)
    yield "bomb", "weights.bin", archive(pickle.dumps({}, 2), {"archive/data/0": zeros}, zipfile.ZIP_DEFLATED)
    yield "bomb", "pickle.bin", archive(b"]" * 2**26 + b".", None, zipfile.ZIP_DEFLATED)
    yield "bomb", "lzma.bin", archive(pickle.dumps({}, 2), {"archive/data/0": zeros[: 2**26]}, zipfile.ZIP_LZMA)
    yield "bomb", "many.bin", archive(pickle.dumps({}, 2), {f"archive/data/{i}": b"" for i in range(70_000)})
    yield "archive", "no-pickle.bin", archive(b"N.").replace(b"data.pkl", b"data.pk_")
    yield "archive", "two-pickles.bin", archive(b"N.", {"other/data.pkl": b"N."})
    yield "archive", "outside.bin", archive(b"N.", {"../../outside": b"x", "/etc/x": b"x"})
    yield "archive", "script.bin", archive(b"N.", {"archive/constants.pkl": b"N.", "archive/code/x.py": b"import os"})
    yield "archive", "comment.bin", good[:-2] + struct.pack("<H", 65535) + b"PK\x05\x06" * 16000
    ends = good.rfind(b"PK\x05\x06")
    for i, (offset, size) in enumerate((o, s) for o in (4, 6, 8, 10, 12, 16, 20) for s in (0, 1, 255, 65535)):
        width = 4 if offset in (12, 16) else 2
        value = size if width == 2 else size * 65537
        yield (
            "archive",
            f"end-{i}.bin",
            good[: ends + offset] + value.to_bytes(width, "little") + good[ends + offset + width :],
        )
    entry = good.find(b"PK\x01\x02")
    for offset, width in ((8, 2), (10, 2), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)):
        for value in (0, 1, 8, 99, 256**width - 1, 256**width // 2):
            bent = good[: entry + offset] + value.to_bytes(width, "little") + good[entry + offset + width :]
            yield "archive", f"entry-{offset}-{value}.bin", bent
