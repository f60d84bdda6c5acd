"""A table of what agrees with a reference within a tolerance, for the benchmarks named parity."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.frame import device_name, finish, machine, show


class Agreement:
    """Rows: what was compared, along which path, its error, its tolerance, and whether it agrees."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def compare(
        self, what: str, path: str, tolerance: float, find: Callable[[], list[Tensor]], expected: list[Tensor]
    ) -> None:
        """Add a row: the largest |found - expected| / |expected| of all tensors."""
        try:
            error = max(_apart(*pair) for pair in zip(find(), expected, strict=True))
            told, agrees = f"{error:.1e}", error <= tolerance
        except Exception as failed:  # one path that fails must not hide the others
            told, agrees = f"{type(failed).__name__}: {failed}".splitlines()[0][:120], False
        self.rows.append({"what": what, "path": path, "error": told, "tolerance": tolerance, "agrees": agrees})

    def leave_out(self, what: str, path: str, reason: str) -> None:
        """Add a row for what cannot be compared here."""
        self.rows.append({"what": what, "path": path, "error": reason, "tolerance": None, "agrees": None})

    def write(self, options: argparse.Namespace, *packages: str) -> None:
        """Write the rows so far."""
        finish({"machine": machine(*packages), "rows": self.rows}, options)

    def finish(self, options: argparse.Namespace, *packages: str) -> int:
        """Print, write.  Returns 1 where something is off by more than its tolerance."""
        verdicts = {True: "agrees", False: "DIFFERS", None: "left out"}
        lines = [
            [r["what"], r["path"], r["error"], f"{r['tolerance'] or '':}", verdicts[r["agrees"]]] for r in self.rows
        ]
        heads = ["what", "path", "error", "tolerance", ""]
        show(f"{device_name()} beside the CPU in float32", heads, lines, left=2)
        self.write(options, *packages)
        off = [f"{r['what']}, {r['path']} ({r['error']})" for r in self.rows if r["agrees"] is False]
        print(f"off by more than the tolerance: {'; '.join(off) or 'none'}")
        return int(bool(off))


def _apart(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double().cpu(), expected.double().cpu()
    return ((found - expected).norm() / expected.norm()).item() if found.isfinite().all() else float("inf")
