"""python make_cases.py FOLDER: write all hostile files there, and FOLDER/cases.json, a list of [group, path in hex]."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from damage import damaged_files
from headers import Case, hostile_metadata, lying_headers, lying_lengths, wrong_weights
from pickles import running_code, strange_archives, strange_pickles
from places import hostile_places

FOUND = Path(__file__).parent / "found"


def found() -> Iterator[Case]:
    """What the fuzzer found, under both endings."""
    for file in sorted(FOUND.iterdir()):
        for ending in (".safetensors", ".bin"):
            yield "found", file.name + ending, file.read_bytes()


def main(folder: Path) -> None:
    """Write every case.  The file `canary` in `folder` must never come into being."""
    cases = []
    sources = (
        damaged_files(), lying_lengths(), lying_headers(), wrong_weights(), hostile_metadata(),
        running_code(folder / "canary"), strange_pickles(), strange_archives(),
        found(),
    )  # fmt: skip
    for source in sources:
        for group, name, content in source:
            path = folder / group / f"{len(cases)}-{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            cases.append((group, os.fsencode(path).hex()))
    cases += [(group, path.hex()) for group, path in hostile_places(folder / "places")]
    (folder / "cases.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
