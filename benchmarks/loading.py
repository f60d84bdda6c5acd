"""How long a control tuner's file takes to load, beside the bare safetensors.

    python benchmarks/loading.py [--rounds 15] [--out FILE.json]

A CSC-Tuner of SD 1.5 with kernel 3 has 99 M parameters.  Both sides read every weight once: safetensors maps a file and
reads nothing of it, `load_tuner` sees whether its weights are finite, so the other side sums them.  In turns; medians.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors.torch import load_file

from benchmarks.frame import finish, machine, parser
from scedit_core import CSCTuner, SkipLayout, load_tuner, save_tuner

TARGET = 1.5


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=15)
    options = made.parse_args()
    tuner = CSCTuner(SkipLayout.from_channels([1280] * 5 + [640] * 3 + [320] * 4, "sd1"), kernel=3)
    parameters = sum(p.numel() for p in tuner.parameters())
    with tempfile.TemporaryDirectory() as folder:
        path = save_tuner(tuner, Path(folder) / "control.safetensors")
        del tuner
        ours, bare = [], []
        for _ in range(options.rounds):
            bare.append(_seconds(lambda: [t.sum() for t in load_file(path).values()]))
            ours.append(_seconds(lambda: load_tuner(path)))
    report = {
        "parameters": parameters,
        "load_tuner_ms": round(1000 * statistics.median(ours), 1),
        "load_file_ms": round(1000 * statistics.median(bare), 1),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, bare, strict=True)), 3),
        "target": TARGET,
        "machine": machine(),
    }
    print(
        f"{parameters / 1e6:.1f} M parameters: load_tuner {report['load_tuner_ms']} ms, load_file "
        f"{report['load_file_ms']} ms, ratio {report['ratio']:.2f} (target {TARGET})"
    )
    finish(report, options)


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
