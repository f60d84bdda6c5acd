"""Plain against folded edits where a tuner is trained: seconds of all twelve skips of SD 1.5, forward and backward.

    python -m benchmarks.edit_gradients [--threads 1] [--batches 1 4] [--dtypes float32 bfloat16] [--out FILE.json]

Plain is `edit_skip`, a convolution for each layer.  Folded is two matrix products whose matrices are made of the
trained weights, anew in each step since they change.  Skips need no gradients, as in training.  The two take turns;
each is given its fastest of ten.  Prints a table and writes JSON.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from benchmarks.frame import finish, keep_memory, machine, parser, show
from scedit_core import SCTuner, SkipLayout
from scedit_core.editing import Edit, edit_skip

CHANNELS = (1280,) * 5 + (640,) * 3 + (320,) * 4
SIDES = (8,) * 3 + (16,) * 3 + (32,) * 3 + (64,) * 3


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    made.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    made.add_argument("--turns", type=int, default=10)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_memory()
    rows = [_row(batch, dtype, options.turns) for dtype in options.dtypes for batch in options.batches]
    heads = ("dtype", "batch", "plain ms", "folded ms", "folded / plain")
    show("SC-Tuner on 12 skips, forward and backward", heads, [[str(each) for each in row.values()] for row in rows], 2)
    finish({"machine": machine(), "rows": rows}, options)


def _row(batch: int, dtype: str, turns: int) -> dict:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    tuner = SCTuner(SkipLayout(CHANNELS, tuple(64 // side for side in SIDES)))
    skips = [torch.randn(batch, c, side, side, dtype=kind) for c, side in zip(CHANNELS, SIDES, strict=True)]
    with torch.no_grad():
        for p in tuner.parameters():
            p.normal_(0, p[0].numel() ** -0.5 if p.ndim > 1 else 0.02)
    ways = {
        "plain": lambda b, skip: edit_skip(b, skip, [Edit(tuner)]),
        "folded": lambda b, skip: _folded(tuner, b, skip),
    }
    best, grads = dict.fromkeys(ways, float("inf")), {}
    for _ in range(turns):
        for name, way in ways.items():
            tuner.zero_grad(set_to_none=True)
            begun = time.perf_counter()
            for b, skip in enumerate(skips):
                edited = way(b, skip)
                edited.backward(skip)  # any gradient of that shape
            best[name] = min(best[name], time.perf_counter() - begun)
            grads[name] = torch.cat([p.grad.flatten() for p in tuner.parameters()])
    off = float((grads["folded"] - grads["plain"]).norm() / grads["plain"].norm())
    assert off < (1e-4 if dtype == "float32" else 0.02), f"the two differ by {off}"
    plain, folded = (round(1000 * best[name], 1) for name in ("plain", "folded"))
    return {"dtype": dtype, "batch": batch, "plain_ms": plain, "folded_ms": folded, "ratio": round(folded / plain, 3)}


def _folded(tuner: SCTuner, b: int, skip: torch.Tensor) -> torch.Tensor:
    adapter, flat = tuner.tuners[str(b)], skip.flatten(2)

    def product(layer, skips):
        weight, bias = layer.weight.to(skip.dtype), layer.bias.to(skip.dtype)
        return torch.baddbmm(bias[:, None], weight.flatten(1).expand(len(skips), -1, -1), skips)

    return (flat + product(adapter.up, F.gelu(product(adapter.down, flat)))).view(skip.shape)


if __name__ == "__main__":
    main()
