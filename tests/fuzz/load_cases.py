"""python load_cases.py FOLDER: load every case of FOLDER/cases.json and print a line of JSON for each.

The line says what came out, in how many seconds, and by how much the peak memory of this process then stood above
where it started.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from scedit_core import CSCTuner, SCTuner, TunerFileError, inspect_tuner, load_tuner


def peak() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def outcome(path: str, inspected: bool = True) -> tuple[str, str]:
    """("loaded" | "refused" | "wrong", what was said); `inspected` where the header is to be read on its own first."""
    try:
        if inspected:
            inspect_tuner(path)
    except TunerFileError:
        pass
    except BaseException as error:
        return "wrong", f"inspect: {error!r}"
    try:
        tuner = load_tuner(path)
    except TunerFileError as error:
        return "refused", str(error)
    except BaseException as error:
        return "wrong", f"load: {error!r}"
    if not all(bool(p.isfinite().all()) for p in tuner.parameters()):
        return "wrong", "a loaded tuner that is not finite"
    try:
        use(tuner)
    except BaseException as error:
        return "wrong", f"use: {error!r}"
    return "loaded", ""


@torch.no_grad()
def use(tuner: SCTuner | CSCTuner) -> None:
    """Edit one small skip of each block: what loads must also run."""
    if isinstance(tuner, SCTuner):
        for b in tuner.blocks:
            tuner.residual(b, torch.ones(1, tuner.layout.channels[b], 2, 2, dtype=tuner.dtype))
        return
    features = tuner.encode_hint(torch.ones(1, 3, 64, 64, dtype=tuner.dtype))
    for b in tuner.blocks:
        tuner.residual(b, torch.ones_like(features[b]), features[b])


def main(folder: Path) -> None:
    """Load a good file first, so that what loads once is not counted."""
    cases = json.loads((folder / "cases.json").read_text())
    for path in [bytes.fromhex(p) for group, p in cases if group == "good"]:
        outcome(os.fsdecode(path))
    start = peak()
    for number, (group, path) in enumerate(cases):
        begin = time.perf_counter()
        result, said = outcome(os.fsdecode(bytes.fromhex(path)), number % 4 == 0)
        seconds = time.perf_counter() - begin
        print(json.dumps([group, path, result, said, seconds, peak() - start]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
