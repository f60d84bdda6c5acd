"""Good files of every format, damaged at random: cut off, with bits flipped, with parts moved, doubled or lost."""

from __future__ import annotations

import random
from collections.abc import Iterator

from headers import Case
from pickles import saved
from seeds import NOTES, safetensors, tuners


def good_files() -> dict[str, bytes]:
    """One good file of each format, and pickles of two."""
    found = {}
    for form, tensors in tuners().items():
        found[f"{form}.safetensors"] = safetensors(tensors, NOTES if form.startswith("own") else {"format": "pt"})
        if form.startswith("scepter"):
            found[f"{form}.bin"] = saved(tensors)
    return found


def damaged_files() -> Iterator[Case]:
    """About 110 damaged files for each good one, which is among them too."""
    rng = random.Random(3)
    for name, good in good_files().items():
        header = 8 + int.from_bytes(good[:8], "little") if name.endswith("s") else len(good)
        yield "good", name, good
        for i, end in enumerate([1, 7, 8, 9, header - 1, header, header + 1, len(good) - 1, *_places(rng, good, 22)]):
            yield "cut-off", f"{i}-{name}", good[:end]
        for i in range(40):  # where a bit counts most: in the header, or at the end of an archive
            bent = bytearray(good)
            span = range(header) if name.endswith("s") else range(len(good) - 6000, len(good))
            for _ in range(rng.choice((1, 1, 1, 3, 20))):
                bent[rng.choice(span)] ^= 1 << rng.randrange(8)
            yield "bits", f"{i}-{name}", bytes(bent)
        for i in range(20):
            bent = bytearray(good)
            bent[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
            yield "bits-anywhere", f"{i}-{name}", bytes(bent)
        for i in range(24):
            a, b, c = sorted(_places(rng, good, 3))
            moved = (good[:a] + good[b:], good[:b] + good[a:], good[:a] + good[b:c] + good[a:b] + good[c:])
            yield "moved", f"{i}-{name}", (*moved, good[:a] + rng.randbytes(b - a) + good[b:])[i % 4]


def _places(rng: random.Random, good: bytes, count: int) -> list[int]:
    return [rng.randrange(1, len(good)) for _ in range(count)]
