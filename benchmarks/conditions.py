"""What canny and colour palette cost beside the bare cv2 calls on bytes, at 512x512, for one picture and for batches.

    python benchmarks/conditions.py [--out FILE.json] [--rounds 30]

Both take turns in each round on one thread; each is given its fastest round, which is the one that nothing else on the
machine disturbed.  Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scedit_core.conditions.canny import canny
from scedit_core.conditions.color_palette import color_palette

SIDE, TARGET = 512, 1.5


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rounds", type=int, default=30, help="how often each is run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = [
        _row(name, ours, bare, batch, options.rounds)
        for name, ours, bare in (("canny", canny, _bare_canny), ("color_palette", color_palette, _bare_mosaic))
        for batch in (1, 5)
    ]
    print(f"{'condition':<14} {'batch':>5} {'ours ms':>9} {'cv2 ms':>9} {'ratio':>6}   target {TARGET}")
    for row in rows:
        verdict = "ok" if row["ratio"] <= TARGET else "above"
        print(f"{row['condition']:<14} {row['batch']:>5} {row['ours_ms']:>9.2f} {row['cv2_ms']:>9.2f} ", end="")
        print(f"{row['ratio']:>6.2f}   {verdict}")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


def _bare_canny(picture):
    return cv2.Canny(picture, 100, 200)


def _bare_mosaic(picture):
    small = cv2.resize(picture, (SIDE // 64, SIDE // 64), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)


def _row(name: str, ours, bare, batch: int, rounds: int) -> dict:
    """Milliseconds for a batch of pictures with even areas, edges and some noise."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 16, 16, generator=draw)
    images = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="nearest").permute(0, 2, 3, 1)
    images = (images + 0.02 * torch.rand(images.shape, generator=draw)).clamp(0, 1).contiguous()
    pixels = (images * 255).round().to(torch.uint8).numpy()
    best = {"ours": float("inf"), "cv2": float("inf")}
    for _ in range(rounds):
        for which, run in (("ours", lambda: ours(images)), ("cv2", lambda: [bare(each) for each in pixels])):
            start = time.perf_counter()
            run()
            best[which] = min(best[which], 1000 * (time.perf_counter() - start))
    ratio = best["ours"] / best["cv2"]
    return {"condition": name, "batch": batch, "ours_ms": best["ours"], "cv2_ms": best["cv2"], "ratio": ratio}


if __name__ == "__main__":
    main()
