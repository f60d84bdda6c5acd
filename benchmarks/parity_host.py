"""Whether sampling in ComfyUI on a GPU gives what the CPU gives: float32, half precision, dynamic VRAM, compiled.

    python -m benchmarks.parity_host [--host COMFYUI] [--paths float16 ...] [--out FILE.json]

A small U-Net of SD 1.5's blocks samples two steps under each variant, on the CPU in float32 and along each path on the
GPU; the error is that of the latents.  Without a GPU the paths that a CPU has are tried on it, and the others say so.
Exits with 1 where a path is off by more than its tolerance.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from torch import Tensor

from benchmarks.agreement import Agreement
from benchmarks.frame import host_version, parser
from benchmarks.inference_host import HostBackend, load_host

VARIANTS = ("base", "SC-Tuner", "CSC-Tuner", "CSC-Tuner on the model", "four CSC-Tuners")
# path -> (dtype, backend of torch.compile, tolerance)
PATHS = {
    "float32": ("float32", None, 2e-3),
    "float16": ("float16", None, 3e-2),
    "bfloat16": ("bfloat16", None, 1e-1),
    "compiled": ("float32", "inductor" if torch.cuda.is_available() else "eager", 2e-3),
}


def main() -> int:
    """Compare, print, write."""
    made = parser(__doc__, host=True)
    made.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    options = made.parse_args()
    host_version(options.host)
    torch.backends.cudnn.allow_tf32 = False  # which rounds what is compared to ten bits
    host, agreement = load_host(options.host, "float32"), Agreement()
    states, device = host.comfy.model_management.CPUState, host.device
    host.comfy.model_management.cpu_state, host.device = states.CPU, torch.device("cpu")
    expected = _sampled(host, "float32", None)
    host.comfy.model_management.cpu_state, host.device = states.GPU if device.type == "cuda" else states.CPU, device
    for path in options.paths:
        dtype, compiled, tolerance = PATHS[path]
        _compare(agreement, path, tolerance, host, dtype, compiled, expected)
    agreement.write(options)  # should what follows end the process
    reason = _turn_on_dynamic_vram(host)
    if reason:
        agreement.leave_out("all", "float32, dynamic VRAM", reason)
    else:
        _compare(agreement, "float32, dynamic VRAM", 2e-3, host, "float32", None, expected)
    return agreement.finish(options)


def _compare(agreement: Agreement, path: str, tolerance: float, host, dtype: str, compiled, expected: dict) -> None:
    found: dict[str, Tensor] = {}

    def of(name: str) -> list[Tensor]:
        found.update(found or _sampled(host, dtype, compiled))
        return [found[name]]

    for name in VARIANTS:
        agreement.compare(name, path, tolerance, lambda name=name: of(name), [expected[name]])


def _sampled(host: SimpleNamespace, dtype: str, compiled: str | None) -> dict[str, Tensor]:
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
