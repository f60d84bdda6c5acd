"""Memory that stays with the process, so that timings on a CPU are not those of the kernel."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # names of glibc's mallopt


def keep_memory() -> None:
    """Have glibc reuse freed memory instead of handing it back; does nothing elsewhere.

    By default every large tensor is mapped anew and its pages are zeroed by the kernel, which took a quarter of a
    U-Net's step and most of its jitter (benchmarks/NOTES.md).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_ARENA_MAX, 1)  # threads' own arenas would give it back
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
