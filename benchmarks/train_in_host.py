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
import itertools
import statistics
import tempfile
import time
from typing import Any

import torch

from benchmarks import frame
from benchmarks.frame import HOST, MIB, finish, machine, one_of, show, stoppable
from benchmarks.inference_host import NAME, base_model, load_host, prompt, randomise
from benchmarks.models import MODELS
from benchmarks.step_counts import SavedBytes, StepCost, fused_attention


def model_of(host: Any, name: str, stored: str, width: int, meta: bool = False) -> Any:
    """A MODEL of the true shape with random weights, which core's node can load again; or with none, where `meta`."""
    patcher = host.comfy.model_patcher.ModelPatcher
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}[stored]
    computing = torch.bfloat16 if stored == "fp8" else None

    def made(disable_dynamic: bool = False) -> Any:
        model = base_model(host, name, width, dtype, computing, "meta" if meta else "cpu")
        if meta:
            model.model_sampling.to("meta")
            return patcher(model, torch.device("meta"), torch.device("meta"))
        randomise(host, model.diffusion_model, 0)
        return patcher(model, host.device, host.offload)

    model = made()
    model.cached_patcher_init = (made, ())
    return model


def measured(host: Any, model: Any, node: Any, widgets: dict[str, Any], **inputs: list) -> dict[str, Any]:
    """Run a node that shows its steps on the host's bar."""
    kept, moments, each = SavedBytes([model.model]), [], []

    def step(*_args: Any, **_values: Any) -> None:
        moments.append(time.perf_counter())
        each.append(kept.most())

    host.comfy.utils.set_progress_bar_global_hook(step)
    gpu = host.device.type == "cuda"
    torch.cuda.reset_peak_memory_stats() if gpu else None
    begun = time.perf_counter()
    try:
        with torch.inference_mode(), kept.counting():
            made = node.execute(model=[model], **inputs, **{key: [value] for key, value in widgets.items()}).args[0]
    finally:
        host.comfy.utils.set_progress_bar_global_hook(None)
    trained = made.values() if isinstance(made, dict) else made.tuner.parameters()  # a LoRA or a tuner
    gaps = [b - a for a, b in itertools.pairwise(moments) if b - a > 1e-3]  # the bar may be told the last step twice
    return {
        "steps_per_second": 1 / statistics.median(gaps),
        "kept_mib": max(each) / MIB,
        "peak_mib": torch.cuda.max_memory_allocated() / MIB if gpu else None,
        "seconds": time.perf_counter() - begun,
        "weights_mib": sum(p.nbytes for p in model.model.parameters()) / MIB,
        "trained_mib": 4 * sum(t.numel() for t in trained) / MIB,  # in float32, as both train
    }


def counted(host: Any, options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """What one step of a style by our node costs."""
    meta, modules = torch.device("meta"), f"{NAME}.nodes.training"
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
    kept, side = SavedBytes([model, tuner]), 8.0 * options.latent
    wide, xl = MODELS[options.model].config["cross_attention_dim"], options.model == "sdxl"
    with (
        torch.inference_mode(False),
        layers.trained_through(model.diffusion_model, options.checkpointing, False),
        fused_attention(),
        StepCost([*weights, *adamw]) as cost,
    ):
        noisy = torch.empty(batch, 4, options.latent, options.latent, device=meta)
        states, pooled = torch.zeros(batch, 77, wide), torch.zeros(batch, 1280) if xl else None
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * batch) if xl else None
        given = noisy, torch.zeros(batch, device=meta), texts.TextStates(states, pooled), sizes
        with kept.counting():
            said = base.predict(*given, [(tuner, 1.0, None)])
        found = {"kept_mib": kept.now / MIB}
        said.float().square().mean().backward()
    found |= {"peak_mib": cost.peak / MIB, "launches": cost.launches}
    for name, module in (("weights_mib", model), ("trained_mib", tuner)):
        found[name] = sum(p.nbytes for p in module.parameters()) / MIB
    return found


def scedit(host: Any, options: argparse.Namespace, batch: int) -> tuple[Any, dict[str, Any]]:
    """Our node and its widgets."""
    return host.pack.nodes["SCEditTrainOnModel"], {
        "folder": "", "name": f"b{batch}", "kind": "style", "steps": options.steps, "batch": batch, "accumulate": 1,
        "learning_rate": 1e-4, "ratio": 1.0, "kernel": "1", "optimizer": "adamw", "precision": "auto",
        "checkpointing": options.checkpointing, "seed": 0, "resolution": 512, "caption": "", "hold_out": 0,
        "preview_every": 0, "start_from": "none", "resume": False,
    }  # fmt: skip


def lora(host: Any, options: argparse.Namespace, batch: int) -> tuple[Any, dict[str, Any]]:
    """Core's node and its widgets."""
    return importlib.import_module("comfy_extras.nodes_train").TrainLoraNode, {
        "batch_size": batch, "steps": options.steps, "grad_accumulation_steps": 1, "learning_rate": 1e-4,
        "rank": options.rank, "optimizer": "AdamW", "loss_function": "MSE", "seed": 0,
        "training_dtype": "fp32" if options.stored == "fp32" else "bf16", "lora_dtype": "fp32",
        "quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": options.checkpointing,
        "checkpoint_depth": 1, "offloading": False, "existing_lora": "[None]", "bucket_mode": False,
        "bypass_mode": False,
    }  # fmt: skip


def main() -> None:
    """Train, print, write."""
    options = frame.options(
        __doc__, host=HOST, model=one_of(("sd15", "sdxl"), "sd15"), latent=32, rank=64, steps=6, batches=[1, 4],
        checkpointing=False, stored=one_of(("fp32", "bf16", "fp8"), "fp32"), width=320,
        only=one_of(("scedit", "lora")), count=False,
    )  # fmt: skip
    host, rows = load_host(options.host, None), []
    import folder_paths

    torch.manual_seed(1)
    latents = [{"samples": torch.randn(1, 4, options.latent, options.latent)} for _ in range(max(options.batches))]
    positive = [prompt(options.model, seed) for seed in range(len(latents))]
    with tempfile.TemporaryDirectory() as folder, stoppable():
        folder_paths.models_dir = folder_paths.output_directory = folder
        folder_paths.folder_names_and_paths["scedit"] = ([folder], {".safetensors"})
        for batch in options.batches:
            if options.count:
                rows.append({"method": "scedit", "batch": batch, **counted(host, options, batch)})
                continue
            for name, made in (("scedit", scedit), ("lora", lora)):
                if options.only in (None, name):
                    model = model_of(host, options.model, options.stored, options.width)
                    node, widgets = made(host, options, batch)
                    found = measured(host, model, node, widgets, latents=latents, positive=positive)
                    rows.append({"method": name, "batch": batch, **found})
                    del model
    show(f"{options.model}, {8 * options.latent} px, ComfyUI {host.version}, {host.device}", rows)
    settings = {key: value for key, value in vars(options).items() if key not in ("host", "out")}
    finish({"machine": machine(), "host": host.version, **settings, "rows": rows}, options)


if __name__ == "__main__":
    main()
