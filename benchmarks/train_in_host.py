"""Training on a MODEL in ComfyUI: steps per second and bytes kept, beside core's Train LoRA.

    python -m benchmarks.train_in_host [--host COMFYUI] [--model sd15 | sdxl] [--latent 32] [--rank 64] [--steps 6]
                                       [--batches 1 4] [--checkpointing] [--stored fp32 | bf16 | fp8] [--width 320]
                                       [--only scedit] [--count] [--out FILE.json]

COMFYUI is a checkout that has Train LoRA (v0.28.0 or newer).  Both nodes are run as ComfyUI runs them, on the same
MODEL of the true shape with random weights, the same latents, captions, batch and compute dtype, and AdamW.  Prints a
table and writes JSON: steps per second (the median of all steps but the first), and bytes that autograd keeps for the
backward pass of a step, each storage once, without weights, gradients and optimiser state, which are listed apart.
--count trains nothing: it counts one step of our node on tensors without numbers, and the most that all of them hold at
once, with weights, gradients and AdamW's state.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from typing import Any

from benchmarks.frame import MIB, finish, host_version, listen_to_ctrl_c, machine, parser, show
from benchmarks.inference_host import NAME, load_host, randomise, unet_config
from benchmarks.step_counts import SavedBytes, StepCost, fused_attention

_TEXT = {"sd15": 768, "sdxl": 2048}


class Watch:
    """Moments of the steps of a node, and what autograd keeps in each."""

    def __init__(self, torch: Any, frozen: set[int]) -> None:
        self.torch, self.frozen = torch, frozen
        self.moments: list[float] = []
        self.kept: list[int] = []
        self._seen: dict[int, Any] = {}
        self._bytes = 0

    def step(self, *_args: Any, **_values: Any) -> None:
        """A step is done."""
        self.moments.append(time.perf_counter())
        self.kept.append(self._bytes)
        self._seen, self._bytes = {}, 0

    def pack(self, tensor: Any) -> Any:
        """Count what autograd keeps."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in self.frozen and place not in self._seen and not isinstance(tensor, self.torch.nn.Parameter):
            self._seen[place] = None
            self._bytes += storage.nbytes()
        return tensor


def model_of(host: Any, name: str, stored: str, width: int, meta: bool = False) -> Any:
    """A MODEL of the true shape with random weights, which core's node can load again; or with none, where `meta`."""
    torch, comfy = host.torch, host.comfy
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}

    def made(disable_dynamic: bool = False) -> Any:
        host.dtype = torch.float32
        shape = unet_config(host, name, width)
        supported = comfy.supported_models.SDXL if name == "sdxl" else comfy.supported_models.SD15
        config = supported(shape)
        config.unet_config |= shape | {"dtype": dtypes[stored]}
        config.manual_cast_dtype = torch.bfloat16 if stored == "fp8" else None
        model = config.get_model({}, "", device=torch.device("meta" if meta else "cpu"))
        if meta:
            model.model_sampling.to("meta")
            return comfy.model_patcher.ModelPatcher(model, torch.device("meta"), torch.device("meta"))
        randomise(host, model.diffusion_model, 0)
        return comfy.model_patcher.ModelPatcher(model, host.device, host.offload)

    model = made()
    model.cached_patcher_init = (made, ())
    return model


def pictures(host: Any, name: str, count: int, latent: int) -> tuple[list, list]:
    """LATENTs and CONDITIONINGs of noise, one for each picture."""
    torch = host.torch
    draw = torch.Generator().manual_seed(1)
    more = {"pooled_output": torch.randn(1, 1280, generator=draw)} if name == "sdxl" else {}
    latents = [{"samples": torch.randn(1, 4, latent, latent, generator=draw)} for _ in range(count)]
    return latents, [[[torch.randn(1, 77, _TEXT[name], generator=draw), dict(more)]] for _ in range(count)]


def measured(host: Any, model: Any, run: Any) -> dict[str, Any]:
    """Run a node that shows its steps on the host's bar."""
    torch = host.torch
    frozen = {p.untyped_storage().data_ptr() for p in model.model.parameters()}
    watch = Watch(torch, frozen)
    host.comfy.utils.set_progress_bar_global_hook(watch.step)
    gpu = host.device.type == "cuda"
    torch.cuda.reset_peak_memory_stats() if gpu else None
    begun = time.perf_counter()
    try:
        with torch.inference_mode(), torch.autograd.graph.saved_tensors_hooks(watch.pack, lambda tensor: tensor):
            run()
    finally:
        host.comfy.utils.set_progress_bar_global_hook(None)
    gaps = [b - a for a, b in zip(watch.moments, watch.moments[1:], strict=False)]
    gaps = [gap for gap in gaps if gap > 1e-3]  # the bar may be told the last step twice
    return {
        "steps_per_second": 1 / statistics.median(gaps),
        "kept_mib": max(watch.kept) / MIB,
        "peak_mib": torch.cuda.max_memory_allocated() / MIB if gpu else None,
        "seconds": time.perf_counter() - begun,
        "weights_mib": sum(p.nbytes for p in model.model.parameters()) / MIB,
    }


def counted(host: Any, options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """What one step of a style by our node costs."""
    torch, meta, modules = host.torch, host.torch.device("meta"), f"{NAME}.nodes.training"
    bases, layers = (importlib.import_module(f"{modules}.{each}") for each in ("host_base", "frozen_layers"))
    texts, recomputing = (
        importlib.import_module(f"{NAME}.scedit_core.fitting.{each}") for each in ("base", "recomputing")
    )
    shaped = model_of(host, options.model, options.stored, options.width, meta=True)
    base = bases.HostBase(shaped, "auto", options.checkpointing, None)
    model = base.model.model
    model.requires_grad_(False)
    tuner = host.pack.core.SCTuner(base.layout, device=meta)
    recomputing.recompute(tuner)
    weights = [t for module in (model, tuner) for t in (*module.parameters(), *module.buffers())]
    adamw = [torch.empty_like(p) for p in (*tuner.parameters(), *tuner.parameters())]
    kept, side, xl = SavedBytes([model, tuner]), 8.0 * options.latent, options.model == "sdxl"
    with (
        torch.inference_mode(False),
        layers.trained_through(model.diffusion_model, options.checkpointing, False),
        fused_attention(),
        StepCost([*weights, *adamw]) as cost,
    ):
        noisy = torch.empty(batch, 4, options.latent, options.latent, device=meta)
        states, pooled = torch.zeros(batch, 77, _TEXT[options.model]), torch.zeros(batch, 1280) if xl else None
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * batch) if xl else None
        given = noisy, torch.zeros(batch, device=meta), texts.TextStates(states, pooled), sizes
        with kept.counting():
            said = base.predict(*given, [(tuner, 1.0, None)])
        found = {"kept_mib": kept.total() / MIB}
        said.float().square().mean().backward()
    found |= {"peak_mib": cost.peak / MIB, "launches": cost.launches}
    for name, module in (("weights_mib", model), ("trained_mib", tuner)):
        found[name] = sum(p.nbytes for p in module.parameters()) / MIB
    return found


def scedit(host: Any, model: Any, latents: list, positive: list, options: argparse.Namespace, batch: int) -> Any:
    """Our node, on a fresh folder."""
    widgets = {
        "folder": "", "name": f"b{batch}", "kind": "style", "steps": options.steps, "batch": batch, "accumulate": 1,
        "learning_rate": 1e-4, "ratio": 1.0, "kernel": "1", "optimizer": "adamw", "precision": "auto",
        "checkpointing": options.checkpointing, "seed": 0, "resolution": 512, "caption": "", "hold_out": 0,
        "preview_every": 0, "start_from": "none", "resume": False,
    }  # fmt: skip
    given = {key: [value] for key, value in widgets.items()}
    node = host.pack.nodes["SCEditTrainOnModel"]
    return lambda: node.execute(model=[model], latents=latents, positive=positive, **given)


def lora(host: Any, model: Any, latents: list, positive: list, options: argparse.Namespace, batch: int) -> Any:
    """Core's node."""
    node = importlib.import_module("comfy_extras.nodes_train").TrainLoraNode
    dtype = "fp32" if options.stored == "fp32" else "bf16"
    widgets = {
        "batch_size": batch, "steps": options.steps, "grad_accumulation_steps": 1, "learning_rate": 1e-4,
        "rank": options.rank, "optimizer": "AdamW", "loss_function": "MSE", "seed": 0, "training_dtype": dtype,
        "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
        "gradient_checkpointing": options.checkpointing, "checkpoint_depth": 1, "offloading": False,
        "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
    }  # fmt: skip
    given = {key: [value] for key, value in widgets.items()}
    return lambda: node.execute(model=[model], latents=latents, positive=positive, **given)


def trained_mib(host: Any, model: Any, name: str, rank: int) -> float:
    """The trained weights, of which gradients take as much again and AdamW's state twice."""
    if name == "scedit":
        layout = host.pack.patch.layout_of(model.model)
        return sum(p.nbytes for p in host.pack.core.SCTuner(layout, device="meta").parameters()) / MIB
    found = 0
    for module in model.model.modules():
        if hasattr(module, "weight_function") and module.weight is not None:
            weight = module.weight
            found += rank * (weight.shape[0] + weight[0].numel()) if weight.ndim > 1 else weight.numel()
            found += 0 if module.bias is None else module.bias.numel()
    return 4 * found / MIB


def main() -> None:
    """Train, print, write."""
    options = _options()
    listen_to_ctrl_c()
    host = load_host(options.host, None)
    import folder_paths

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.models_dir = folder_paths.output_directory = folder
        folder_paths.folder_names_and_paths["scedit"] = ([folder], {".safetensors"})
        for batch in options.batches:
            if options.count:
                rows.append({"method": "scedit", "batch": batch, **counted(host, options, batch)})
                continue
            latents, positive = pictures(host, options.model, max(options.batches), options.latent)
            for name, made in (("scedit", scedit), ("lora", lora)):
                if options.only in (None, name):
                    model = model_of(host, options.model, options.stored, options.width)
                    found = measured(host, model, made(host, model, latents, positive, options, batch))
                    found["trained_mib"] = trained_mib(host, model, name, options.rank)
                    rows.append({"method": name, "batch": batch, **found})
                    del model
    heads = ["method", "batch", "steps_per_second", "kept_mib", "peak_mib", "weights_mib", "trained_mib", "seconds"]
    heads = [head for head in heads if head in rows[0]]
    lines = [[f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key]) for key in heads] for row in rows]
    show(f"{options.model}, {8 * options.latent} px, ComfyUI {host.version}, {host.device}", heads, lines)
    settings = {key: value for key, value in vars(options).items() if key not in ("host", "out")}
    finish({"machine": machine(), "host": host.version, **settings, "rows": rows}, options)


def _options() -> argparse.Namespace:
    made = parser(__doc__, host=True)
    made.add_argument("--width", type=int, default=320, help="channels of the U-Net's first level, truly 320")
    made.add_argument("--model", choices=list(_TEXT), default="sd15")
    made.add_argument("--latent", type=int, default=32)
    made.add_argument("--rank", type=int, default=64)
    made.add_argument("--steps", type=int, default=6)
    made.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    made.add_argument("--checkpointing", action="store_true")
    made.add_argument("--stored", choices=["fp32", "bf16", "fp8"], default="fp32")
    made.add_argument("--only", choices=["scedit", "lora"])
    made.add_argument("--count", action="store_true", help="one step of our node on tensors without numbers")
    options = made.parse_args()
    host_version(options.host)
    return options


if __name__ == "__main__":
    main()
