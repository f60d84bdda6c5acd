"""Small good tuners, from which hostile files are made: every format, every container, a few KB each."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as scripts, from anywhere

from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.formats import scepter_csc, scepter_sc, swift_diffusers, swift_scepter

LAYOUT = SkipLayout.from_channels((8,) * 5 + (4,) * 3 + (2,) * 4)
NOTES = {
    "scedit.format": "1",
    "scedit.channels": json.dumps(LAYOUT.channels),
    "scedit.strides": json.dumps(LAYOUT.strides),
    "scedit.family": "custom",
}

Tensors = dict[str, torch.Tensor]


def noise(tuner) -> Tensors:
    """The tuner's tensors under the own names, filled with seeded noise."""
    draw = torch.Generator().manual_seed(0)
    return {k: torch.randn(v.shape, generator=draw) for k, v in tuner.to_file().items()}


def tuners() -> dict[str, Tensors]:
    """Tensors by key, for each format."""
    sc = noise(SCTuner(LAYOUT))
    csc = noise(CSCTuner(LAYOUT, kernel=3, hint_ratio=1 / 16, stem_width=4))

    def named(form, tensors):
        return {key: tensors[own] for own, key in form.write(tensors, LAYOUT, {}).keys.items()}

    pytorch = {}
    for own, tensor in sc.items():
        _, b, layer, kind = own.split(".")
        pytorch[f"up_blocks.{int(b) // 3}.sc_tuners.{int(b) % 3}.{layer}.{kind}"] = tensor
    return {
        "own-sc": sc,
        "own-csc": csc,
        "scepter-sc": named(scepter_sc, sc),
        "scepter-csc": named(scepter_csc, csc),
        "swift": named(swift_scepter, sc),
        "swift-diffusers": named(swift_diffusers, sc),
        "scedit-pytorch": pytorch,
    }


def safetensors(tensors: Tensors, metadata: dict | None = None, header: dict | None = None) -> bytes:
    """A safetensors file, byte by byte, so that its header can say anything: `header` is laid over the true one."""
    words = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    true: dict = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for key, tensor in tensors.items():
        raw = tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes()
        true[key] = {"dtype": words[tensor.dtype], "shape": list(tensor.shape)}
        true[key]["data_offsets"] = [len(data), len(data) + len(raw)]
        data += raw
    return packed(json.dumps(true | (header or {})).encode(), data)


def packed(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Length, header, data; `length` where it is to lie."""
    return struct.pack("<Q", (len(header) if length is None else length) % 2**64) + header + data
