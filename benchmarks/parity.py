"""Whether what only runs on a GPU computes what the CPU does: half precision, 8 bits, compiling, fused updates.

    python -m benchmarks.parity [--kinds sc csc] [--out FILE.json]

A U-Net of SD 1.5's blocks with a tenth of the channels, and a tuner of random weights, take the same step twice: in
float32 on the CPU, and on the GPU along each path.  The error of a path is the largest, over the prediction and all
gradients, of |found - expected| / |expected|.  Without a GPU the paths are tried on the CPU.  Prints a table, writes
JSON, and exits with 1 where a path is off by more than its tolerance.
"""

from __future__ import annotations

import copy
import sys
from functools import partial

import diffusers
import torch
from torch import Tensor, nn

from benchmarks.agreement import Agreement
from benchmarks.frame import parser
from benchmarks.models import MODELS
from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.diffusers import attach
from scedit_core.fitting.machine import moved
from scedit_core.fitting.optimizing import build_ema, build_optimizer
from scedit_core.fitting.settings import LoopSettings
from training.config import MemoryConfig
from training.memory.compiling import compile_blocks
from training.memory.preparing import prepare_tuner, prepare_unet

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
PLAIN = {"frozen_convolutions": False}
ALL = {"frozen_convolutions": True, "checkpointing": True, "fp8": True}
# path -> (memory options, dtype of the U-Net, compiled, what the CPU's options are, tolerance)
PATHS: dict[str, tuple[dict, torch.dtype, bool, dict, float]] = {
    "float32": (PLAIN, torch.float32, False, PLAIN, 2e-3),
    "frozen layers, checkpointing, 8 bits": (ALL, torch.float32, False, PLAIN | {"fp8": True}, 2e-3),
    "bfloat16": (ALL | {"fp8": False}, torch.bfloat16, False, PLAIN, 8e-2),
    "float16, gradients scaled": (ALL | {"fp8": False}, torch.float16, False, PLAIN, 2e-2),
    "compiled, 8 bits": (ALL, torch.float32, True, PLAIN | {"fp8": True}, 2e-3),
}


def main() -> int:
    """Compare, print, write."""
    made = parser(__doc__)
    made.add_argument("--kinds", nargs="+", choices=("sc", "csc"), default=["sc", "csc"])
    options = made.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    torch.backends.cudnn.allow_tf32 = False  # which rounds what is compared to ten bits
    torch.manual_seed(0)
    unet = MODELS["sd15"].tiny().build()
    agreement = Agreement()
    for kind in options.kinds:
        _compare(agreement, unet, kind)
    return agreement.finish(options, "diffusers")


def _compare(agreement: Agreement, unet: nn.Module, kind: str) -> None:
    tuner, cpu, known = _tuner(unet, kind), torch.device("cpu"), {}
    what, compare = f"{kind}, training", agreement.compare
    for path, (memory, dtype, compiled, on_cpu, tolerance) in PATHS.items():
        if compiled and kind != "sc":
            continue  # blocks of the U-Net are compiled, the tuners are not
        key = str(on_cpu)
        if key not in known:
            known[key] = _step(unet, tuner, on_cpu, torch.float32, cpu, False)
        found = partial(_step, unet, tuner, memory, dtype, DEVICE, compiled)
        compare(what, path, tolerance, found, known[key])
    compare(
        f"{kind}, sampling", "diffusers", 2e-3, lambda: [_sampled(unet, tuner, DEVICE)], [_sampled(unet, tuner, cpu)]
    )
    compare(what, "three updates with a running mean", 2e-3, lambda: _updated(tuner, DEVICE), _updated(tuner, cpu))


def _tuner(unet: nn.Module, kind: str) -> SCTuner | CSCTuner:
    torch.manual_seed(1)
    layout = SkipLayout.from_diffusers(unet.config)
    tuner = SCTuner(layout) if kind == "sc" else CSCTuner(layout, stem_width=32)
    for p in tuner.parameters():  # adapters start at zero, where half of the gradients are zero
        nn.init.normal_(p, std=0.05)
    return tuner


def _inputs(device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    draw = torch.Generator().manual_seed(2)
    noisy, states = torch.randn(2, 4, 16, 16, generator=draw), torch.randn(2, 77, 768, generator=draw)
    hint = torch.rand(2, 3, 128, 128, generator=draw)
    inputs = {"sample": moved(noisy, device).to(dtype), "encoder_hidden_states": moved(states, device).to(dtype)}
    return inputs | {"timestep": torch.tensor([10, 700], device=device)}, moved(hint, device)


def _step(
    unet: nn.Module, tuner: SCTuner | CSCTuner, memory: dict, dtype: torch.dtype, device: torch.device, compiled: bool
) -> list[Tensor]:
    """Prediction and gradients."""
    unet, tuner = copy.deepcopy(unet).to(dtype), copy.deepcopy(tuner).to(device)
    memory = MemoryConfig(**memory, compile=False)
    prepare_unet(unet, memory, dtype)
    prepare_tuner(tuner, memory)
    unet.to(device)
    if compiled:
        compile_blocks(unet, backend="inductor" if GPU else "eager")
    inputs, hint = _inputs(device, dtype)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    with attach(unet, [(tuner, 1.0, hint if isinstance(tuner, CSCTuner) else None)]):
        out = unet(**inputs).sample
    scaler.scale(out.float().square().mean()).backward()
    scale = scaler.get_scale()
    return [out.detach(), *(p.grad / scale for p in tuner.parameters())]


@torch.no_grad()
def _sampled(unet: nn.Module, tuner: SCTuner | CSCTuner, device: torch.device) -> Tensor:
    unet, tuner = copy.deepcopy(unet).to(device), copy.deepcopy(tuner).to(device)
    inputs, hint = _inputs(device, torch.float32)
    with attach(unet, [(tuner, 0.7, hint if isinstance(tuner, CSCTuner) else None)]):
        return unet(**inputs).sample


def _updated(tuner: SCTuner | CSCTuner, device: torch.device) -> list[Tensor]:
    """Weights and their running mean after three updates with drawn gradients."""
    tuner, draw = copy.deepcopy(tuner).to(device), torch.Generator().manual_seed(3)
    parameters, loop = list(tuner.parameters()), LoopSettings(learning_rate=1e-3, ema=0.9)
    optimizer, mean = build_optimizer(parameters, loop), build_ema(parameters, loop)
    for _ in range(3):
        for p in parameters:
            p.grad = moved(torch.randn(p.shape, generator=draw), device)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean.step(parameters)
    return [p.detach() for p in (*parameters, *mean.shadow_params)]


if __name__ == "__main__":
    sys.exit(main())
