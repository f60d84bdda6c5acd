"""FLOPs of four SC-Tuners trained in one pass of the encoder, beside those of four alone; nothing is allocated.

python benchmarks/sweep_counts.py [sd15 sdxl ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
from step_counts import fused_attention  # noqa: E402
from training_models import MODELS  # noqa: E402

from scedit_core import SCTuner, SkipLayout  # noqa: E402
from scedit_core.diffusers import attach  # noqa: E402

TUNERS = 4


def flops(name: str, apart: bool) -> int:
    """Of one step, forward and backward: of all tuners together, or of one."""
    with torch.device("meta"):
        unet = MODELS[name].build().to(torch.bfloat16)
        layout = SkipLayout.from_diffusers(unet.config)
        tuners = [SCTuner(layout, dtype=torch.bfloat16) for _ in range(TUNERS if apart else 1)]
    inputs = MODELS[name].inputs(1, torch.device("meta"))
    with FlopCounterMode(display=False) as counter, fused_attention():
        with attach(unet, [(tuner, 1.0, None) for tuner in tuners], apart):
            out = unet(**inputs).sample
        out.square().mean().backward()
    return counter.get_total_flops()


def main(names: list[str]) -> None:
    """Print the share."""
    for name in names or ["sd15", "sdxl"]:
        alone, together = flops(name, False), flops(name, True)
        share = together / (TUNERS * alone)
        print(f"{MODELS[name].title}: {TUNERS} tuners in one pass take {share:.3f} of the FLOPs of {TUNERS} alone")


if __name__ == "__main__":
    main(sys.argv[1:])
