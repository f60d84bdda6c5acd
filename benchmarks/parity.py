"""Whether what only runs on a GPU computes what the CPU does: half precision, 8 bits, compiling, fused updates.

    python -m benchmarks.parity [--kinds sc csc] [--out FILE.json]
    python -m benchmarks.parity --in-comfyui [--host COMFYUI] [--paths float16 ...] [--out FILE.json]

A U-Net of SD 1.5's blocks with a tenth of the channels, and a tuner of random weights, take the same step twice: in
float32 on the CPU, and on the GPU along each path.  In ComfyUI two steps are sampled under each variant, with dynamic
VRAM too.  The error of a path is the largest, over the prediction and all gradients, or over the latents, of |found -
expected| / |expected|; --paths names some of those in ComfyUI.  Without a GPU the paths that a CPU has are tried on
it.  Prints a table, writes JSON, and exits with 1 where a path is off by more than its tolerance.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import frame
from benchmarks.frame import HOST, device_name, finish, machine, show, some_of
from benchmarks.inference_host import HostBackend, load_host
from benchmarks.methods import NONE, Savings, with_tuners
from benchmarks.models import MODELS
from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.diffusers import attach
from scedit_core.fitting.machine import moved
from scedit_core.fitting.optimizing import build_ema, build_optimizer
from scedit_core.fitting.settings import LoopSettings
from training.memory.compiling import compile_blocks

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
BACKEND = "inductor" if GPU else "eager"
# path -> (savings, dtype of the U-Net, compiled, tolerance)
STEPS: dict[str, tuple[Savings, torch.dtype, bool, float]] = {
    "float32": (NONE, torch.float32, False, 2e-3),
    "frozen layers, checkpointing, 8 bits": (Savings(True, True, True), torch.float32, False, 2e-3),
    "bfloat16": (Savings(True, True), torch.bfloat16, False, 8e-2),
    "float16, gradients scaled": (Savings(True, True), torch.float16, False, 2e-2),
    "compiled, 8 bits": (Savings(True, True, True), torch.float32, True, 2e-3),
}
# path -> (dtype, backend of torch.compile, tolerance)
PATHS = {
    "float32": ("float32", None, 2e-3),
    "float16": ("float16", None, 3e-2),
    "bfloat16": ("bfloat16", None, 1e-1),
    "compiled": ("float32", BACKEND, 2e-3),
}
VARIANTS = ("base", "SC-Tuner", "CSC-Tuner", "CSC-Tuner on the model", "four CSC-Tuners")


class Agreement:
    """Rows: what was compared, along which path, its error, its tolerance, and whether it agrees."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.rows: list[dict[str, Any]] = []
        self._options = options

    def add(self, what: str, path: str, tolerance: float | None, error: str, agrees: bool | None) -> None:
        """Add a row, and write all: what follows may end the process.  agrees: None where nothing was compared."""
        self.rows.append({"what": what, "path": path, "error": error, "tolerance": tolerance, "agrees": agrees})
        finish({"machine": machine(), "rows": self.rows}, self._options)

    def compare(
        self, what: str, path: str, tolerance: float, find: Callable[[], list[Tensor]], expected: list[Tensor]
    ) -> None:
        """Add the largest error of all tensors."""
        try:
            error = max(_apart(*pair) for pair in zip(find(), expected, strict=True))
            self.add(what, path, tolerance, f"{error:.1e}", error <= tolerance)
        except Exception as failed:  # one path that fails must not hide the others
            self.add(what, path, tolerance, f"{type(failed).__name__}: {failed}".splitlines()[0][:120], False)

    def finish(self) -> int:
        """Print.  Returns 1 where something is off by more than its tolerance."""
        verdicts = {True: "agrees", False: "DIFFERS", None: "left out"}
        rows = [{**row, "tolerance": str(row["tolerance"]), "agrees": verdicts[row["agrees"]]} for row in self.rows]
        show(f"{device_name()} beside the CPU in float32", rows)
        off = [f"{row['what']}, {row['path']} ({row['error']})" for row in self.rows if row["agrees"] is False]
        print(f"off by more than the tolerance: {'; '.join(off) or 'none'}")
        return int(bool(off))


def _apart(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double().cpu(), expected.double().cpu()
    return ((found - expected).norm() / expected.norm()).item() if found.isfinite().all() else float("inf")


def main() -> int:
    """Compare, print, write."""
    kinds, paths = some_of(("sc", "csc")), some_of(PATHS)
    options = frame.options(__doc__, kinds=kinds, in_comfyui=False, host=HOST, paths=paths)
    torch.backends.cudnn.allow_tf32 = False  # which rounds what is compared to ten bits
    torch.manual_seed(0)
    agreement = Agreement(options)
    if options.in_comfyui:
        _compare_in_comfyui(agreement, options)
        return agreement.finish()
    unet = MODELS["sd15"].tiny().build()
    for kind in options.kinds:
        _compare_steps(agreement, unet, kind)
    return agreement.finish()


def _compare_steps(agreement: Agreement, unet: nn.Module, kind: str) -> None:
    tuner, cpu = _tuner(unet, kind), torch.device("cpu")
    expected = cache(lambda fp8: _step(unet, tuner, Savings(fp8=fp8), torch.float32, False, cpu))
    for path, (savings, dtype, compiled, tolerance) in STEPS.items():
        if compiled and kind != "sc":
            continue  # blocks of the U-Net are compiled, the tuners are not
        found = partial(_step, unet, tuner, savings, dtype, compiled, DEVICE)
        agreement.compare(f"{kind}, training", path, tolerance, found, expected(savings.fp8))
    for what, path, work in (
        (f"{kind}, sampling", "diffusers", partial(_sampled, unet, tuner)),
        (f"{kind}, training", "three updates with a running mean", partial(_updated, tuner)),
    ):
        agreement.compare(what, path, 2e-3, partial(work, DEVICE), work(cpu))


def _tuner(unet: nn.Module, kind: str) -> SCTuner | CSCTuner:
    torch.manual_seed(1)
    layout = SkipLayout.from_diffusers(unet.config)
    tuner = SCTuner(layout) if kind == "sc" else CSCTuner(layout, stem_width=32)
    for p in tuner.parameters():  # adapters start at zero, where half of the gradients are zero
        nn.init.normal_(p, std=0.05)
    return tuner


def _inputs(device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """Of the U-Net, and a hint."""
    draw = torch.Generator().manual_seed(2)
    noisy, states = (torch.randn(shape, generator=draw) for shape in ((2, 4, 16, 16), (2, 77, 768)))
    inputs = {"sample": moved(noisy, device).to(dtype), "timestep": torch.tensor([10, 700], device=device)}
    inputs["encoder_hidden_states"] = moved(states, device).to(dtype)
    return inputs, moved(torch.rand(2, 3, 128, 128, generator=draw), device)


def _step(
    unet: nn.Module, tuner: SCTuner | CSCTuner, savings: Savings, dtype: torch.dtype, compiled: bool,
    device: torch.device,
) -> list[Tensor]:  # fmt: skip
    """Prediction and gradients."""
    method = with_tuners(copy.deepcopy(unet).to(dtype), savings, [copy.deepcopy(tuner)])
    for module in method.modules():
        module.to(device)
    if compiled:
        compile_blocks(method.unet, backend=BACKEND)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    out = method.forward(*_inputs(device, dtype))
    scaler.scale(out.float().square().mean()).backward()
    return [out.detach(), *(p.grad / scaler.get_scale() for p in method.parameters())]


@torch.no_grad()
def _sampled(unet: nn.Module, tuner: SCTuner | CSCTuner, device: torch.device) -> list[Tensor]:
    unet, tuner = copy.deepcopy(unet).to(device), copy.deepcopy(tuner).to(device)
    inputs, hint = _inputs(device, torch.float32)
    with attach(unet, [(tuner, 0.7, hint if isinstance(tuner, CSCTuner) else None)]):
        return [unet(**inputs).sample]


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


def _compare_in_comfyui(agreement: Agreement, options: argparse.Namespace) -> None:
    host = load_host(options.host, "float32")
    management, device = host.comfy.model_management, host.device
    before, management.cpu_state, host.device = management.cpu_state, management.CPUState.CPU, torch.device("cpu")
    expected = _sampled_in_comfyui(host, "float32", None)
    management.cpu_state, host.device = before, device

    def compare(path: str, dtype: str, compiled: str | None, tolerance: float) -> None:
        found = cache(lambda: _sampled_in_comfyui(host, dtype, compiled))
        for name in VARIANTS:
            agreement.compare(name, path, tolerance, lambda name=name: [found()[name]], [expected[name]])

    for path in options.paths:
        compare(path, *PATHS[path])
    reason = _turn_on_dynamic_vram(host)
    if reason:
        agreement.add("all", "float32, dynamic VRAM", None, reason, None)
    else:
        compare("float32, dynamic VRAM", "float32", None, 2e-3)


def _sampled_in_comfyui(host: SimpleNamespace, dtype: str, compiled: str | None) -> dict[str, Tensor]:
    host.dtype = getattr(torch, dtype)
    backend = HostBackend(host, "sd15", latent=16, width=32, compiled=compiled, only=VARIANTS)
    return {name: backend.run(name, 2, lambda: None) for name in VARIANTS}


def _turn_on_dynamic_vram(host: SimpleNamespace) -> str | None:
    """As ComfyUI's main.py does.  Returns why it cannot be, else None."""
    if host.device.type != "cuda":
        return "needs a CUDA device"
    if not hasattr(host.comfy.model_patcher, "ModelPatcherDynamic"):
        return f"ComfyUI {host.version} has none"
    import comfy_aimdo.control as control

    control.init()
    if not control.init_devices([host.comfy.model_management.get_torch_device().index]):
        return "comfy-aimdo does not work on this machine"
    host.comfy.model_patcher.CoreModelPatcher = host.comfy.model_patcher.ModelPatcherDynamic
    host.comfy.memory_management.aimdo_enabled = True
    return None


if __name__ == "__main__":
    sys.exit(main())
