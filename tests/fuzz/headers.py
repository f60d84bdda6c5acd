"""Hostile safetensors files: headers that lie, weights that are none, metadata that mislead."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import torch
from seeds import NOTES, Tensors, packed, safetensors, tuners

Case = tuple[str, str, bytes]  # group, file name, content
_DTYPES = ("BOOL", "U8", "I8", "I16", "U16", "I32", "I64", "F64", "F8_E4M3", "F8_E5M2", "C64", "F4", "", "f32", "F32 ")
_SHAPES = ([], [0], [1], [-1], [0, 8], [8, 0], [2**63], [2**40, 2**40], [1] * 100, [8.5, 8], ["8", "8"], [[8], [8]])
_VALUES = (
    "", "null", "[]", "{}", "[1]", "[0]*", "[-8]", "[8.5]", '["8"]', "[true]", "[1e999]", "NaN", "1e999", "-1e999",
    "nan", "inf", "[8]" * 9, "[" * 50_000, "9" * 5000, "[" + "9" * 5000 + "]", "[" + "8," * 200_000 + "8]", "\x00",
    "ü" * 500, "sc", "csc", "both", "2", "1.0", "sdxl", "sd1", json.dumps([2**70] * 12), json.dumps([65536] * 12),
    json.dumps([1] * 128), json.dumps([1] * 129),
)  # fmt: skip


def lying_lengths() -> Iterator[Case]:
    """Lengths of the header that are not its length."""
    good = safetensors(tuners()["own-sc"], NOTES)
    true = int.from_bytes(good[:8], "little")
    lengths = [
        0,
        1,
        2,
        7,
        8,
        -1,
        -8,
        2**63,
        2**63 - 1,
        2**64 - 8,
        2**32,
        2**31,
        100_000_000,
        100_000_001,
        2**22,
        2**22 + 1,
    ]
    lengths += [true + d for d in (-100, -2, -1, 1, 2, 8, 100)] + [len(good), len(good) - 8, len(good) - 9]
    for n in lengths:
        yield "header-length", f"{n}.safetensors", packed(good[8:], length=n)


def lying_headers() -> Iterator[Case]:
    """Headers that are no tables of tensors, or tables of other tensors."""
    tensors = tuners()["own-sc"]
    key, data = "tuners.0.down.weight", bytes(256)
    entry = {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}
    offsets = ([0, 0], [256, 0], [0, 255], [0, 257], [-256, 0], [1, 257], [0], [], [0, 2**63], [2**63, 2**63 + 256])
    offsets += ([0.0, 256.0], ["0", "256"], None, [0, 256, 512], [2**64 - 256, 2**64])
    headers: dict[str, object] = {f"offsets-{i}": {key: entry | {"data_offsets": o}} for i, o in enumerate(offsets)}
    headers |= {f"shape-{i}": {key: entry | {"shape": s}} for i, s in enumerate(_SHAPES)}
    headers |= {f"dtype-{i}": {key: entry | {"dtype": d}} for i, d in enumerate((*_DTYPES, None, 5, ["F32"]))}
    headers |= {f"part-{k}": {key: {n: v for n, v in entry.items() if n != k}} for k in entry}
    headers |= {f"entry-{i}": {key: v} for i, v in enumerate((None, 1, "x", [], {}, [entry], True))}
    headers |= {
        "overlap": {key: entry, "tuners.0.up.weight": entry},
        "list": [entry],
        "number": 5,
        "null": None,
        "no": {},
    }
    headers |= {
        "metadata-list": {"__metadata__": [], key: entry},
        "metadata-deep": {"__metadata__": {"a": {}}, key: entry},
    }
    headers |= {
        "metadata-number": {"__metadata__": {"a": 1}, key: entry},
        "metadata-only": {"__metadata__": {"a": "b"}},
    }
    headers |= {
        f"key-{i}": {k: entry}
        for i, k in enumerate(("", "\x00", key + "\x00", "ü", "\ud800", "x" * 100_000, key + "\n"))
    }
    for name, header in headers.items():
        yield "header-content", f"{name}.safetensors", packed(json.dumps(header).encode(), data)
    for i, slow in enumerate(("down_blocks.", "up_blocks.0.resnets.0.scetuner_", "lora", "0.model.")):  # slow to match
        yield "header-content", f"slow-{i}.safetensors", packed(json.dumps({slow * 50_000: entry}).encode(), data)
    texts = {
        "empty": b"",
        "invalid-utf8": b'{"\xff\xfe": 1}',
        "half": b'{"a":',
        "trailing": b"{}x",
        "nul": b"\x00" * 64,
    }
    texts |= {f"deep-{o.decode()}-{n}": o * n for o in (b"[", b'{"a":') for n in (10, 127, 128, 129, 1000, 100_000)}
    twice = json.dumps(entry)
    texts["twice"] = f'{{"{key}": {twice}, "{key}": {twice}}}'.encode()
    texts["twice-in-entry"] = f'{{"{key}": {{"dtype": "I8", {twice[1:]}}}'.encode()
    texts["huge-number"] = b'{"a": ' + b"9" * 100_000 + b"}"
    for name, text in texts.items():
        yield "header-content", f"{name}.safetensors", packed(text, data)
    for count in (4096, 4097, 50_000, 1_000_000):  # many keys, the last ones 100 MB of header
        empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        body = json.dumps(empty)
        header = "{" + ",".join(f'"tuners.{i}.down.weight": {body}' for i in range(count)) + "}"
        yield "many-keys", f"{count}.safetensors", packed(header.encode())
    yield (
        "header-content",
        "with-overlap-of-all.safetensors",
        safetensors(
            tensors,
            NOTES,
            {
                k: {"dtype": "F32", "shape": list(v.shape), "data_offsets": [0, v.numel() * 4]}
                for k, v in tensors.items()
            },
        ),
    )


def wrong_weights() -> Iterator[Case]:
    """Good headers around weights that are no tuner's: dtypes, shapes, missing and extra keys, NaN and infinity."""
    rng = random.Random(1)
    for form, tensors in tuners().items():
        notes = NOTES if form == "own-csc" else None
        keys = list(tensors)
        chosen = rng.sample(keys, 6)
        for key in chosen:
            t = tensors[key]
            size = t.numel() * 4
            for word, width in (("I8", 1), ("BOOL", 1), ("F64", 8), ("I32", 4), ("U8", 1)):
                entry = {"dtype": word, "shape": [size // width]}
                yield "dtype", f"{form}-{key}-{word}.safetensors", _relabelled(tensors, notes, key, entry)
            for shape in ([], [0], [0, 0], [t.numel()], [t.numel(), 1], [1, t.numel(), 1, 1], [1] * 9 + [t.numel()]):
                replaced = tensors | {key: torch.zeros(shape)}
                yield "shape", f"{form}-{key}-{len(shape)}-{sum(shape)}.safetensors", safetensors(replaced, notes)
            for value in (float("nan"), float("inf"), -float("inf")):
                broken = t.clone()
                broken.view(-1)[rng.randrange(t.numel())] = value
                for dtype in (torch.float32, torch.float16, torch.bfloat16):
                    cast = {k: (broken if k == key else v).to(dtype) for k, v in tensors.items()}
                    name = f"{form}-{key}-{value}-{str(dtype)[6:]}.safetensors"
                    yield "not-finite", name, safetensors(cast, notes)
            yield (
                "missing",
                f"{form}-{key}.safetensors",
                safetensors({k: v for k, v in tensors.items() if k != key}, notes),
            )
            for other in (
                "lora.weight",
                f"model.{key}",
                f"0.{key}",
                key + ".extra",
                key.replace("0", "00"),
                key.upper(),
            ):
                yield (
                    "extra",
                    f"{form}-{key}-{hash_of(other)}.safetensors",
                    safetensors({**tensors, other: t.clone()}, notes),
                )
        for name, change in _rewrites().items():
            yield (
                "rewritten",
                f"{form}-{name}.safetensors",
                safetensors({k: change(k, v) for k, v in tensors.items()}, notes),
            )
        for word in ("999999999", "99", "-1", "007", "1e3", "٣", ""):  # the last but one is an Arabic three
            renamed = {k.replace(".0.", f".{word}.", 1): v for k, v in tensors.items()}
            yield "block-number", f"{form}-{hash_of(word)}.safetensors", safetensors(renamed, notes)


def hostile_metadata() -> Iterator[Case]:
    """Metadata of our own format with values of every kind."""
    for form in ("own-sc", "own-csc"):
        tensors = tuners()[form]
        for key in (*NOTES, "scedit.kind", "scedit.scale", "scedit.condition"):
            for i, value in enumerate(_VALUES):
                yield "metadata", f"{form}-{key}-{i}.safetensors", safetensors(tensors, {**NOTES, key: value})


def hash_of(text: str) -> str:
    """A short name for a text that cannot be a file's name."""
    return text.encode().hex()[-16:] or "empty"


def _relabelled(tensors: Tensors, notes: dict | None, key: str, entry: dict) -> bytes:
    good = json.loads(safetensors(tensors, notes)[8:].split(b"}}", 1)[0] + b"}}")
    return safetensors(tensors, notes, {key: good[key] | entry})


def _rewrites() -> dict:
    def two(t):
        return t.ndim == 2

    return {
        "transposed": lambda k, v: v.t().contiguous() if two(v) else v,
        "doubled": lambda k, v: torch.cat([v, v]),
        "halved": lambda k, v: v[: max(1, len(v) // 2)],
        "odd-channels": lambda k, v: torch.zeros([s + 3 for s in v.shape]),
        "flat": lambda k, v: v.flatten(),
        "one": lambda k, v: torch.zeros([1] * v.ndim),
        "five-dimensional": lambda k, v: v[None, None, None],
        "zero": lambda k, v: torch.zeros(v.shape),
        "largest": lambda k, v: torch.full(v.shape, 3.4e38),
        "smallest": lambda k, v: torch.full(v.shape, 1e-45),
    }
