"""What a tuner costs on the host: time of a sampling step over the same step without, time to load a file, memory.

    python benchmarks/inference_host.py HOST [--out FILE.json] [--latent 64] [--width 320] [--steps 6] [--rounds 3]

HOST is a ComfyUI checkout.  A U-Net of the SD 1.5 shape (at --width 320) with random weights samples one picture with a
positive and a negative prompt, which is batch 2, on the GPU in the host's own dtype, else on the CPU in float32.  All
variants take turns in each round, and each is compared with the base of its own round, so that what else the machine
does falls on all of them.  The first step of a run, in which hints are encoded, is not counted; it is in the table as
"first step".  Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

PACK = Path(__file__).resolve().parents[1]
NAME = "scedit_pack_benchmarked"
TARGETS = {"SC-Tuner": 1.03, "CSC-Tuner": 1.04, "four CSC-Tuners": 1.12}
LOAD_TARGET = 1.5


def main() -> None:
    """Measure, print, write."""
    options = _options()
    host = _host(options.host)
    variants = _variants(host, options)
    rows = _steps(host, variants, options)
    loading = _loading(host, options)
    report = {
        "device": host.device_name,
        "dtype": str(host.dtype).removeprefix("torch."),
        "host": host.version,
        "torch": host.torch.__version__,
        "latent": options.latent,
        "width": options.width,
        "batch": 2,
        "steps": rows,
        "loading": loading,
    }
    _print(report)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("host", type=Path, help="a ComfyUI checkout")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--latent", type=int, default=64, help="height and width of the latent, 64 is 512 pixels")
    parser.add_argument("--width", type=int, default=320, help="channels of the U-Net's first level, 320 is SD 1.5")
    parser.add_argument("--steps", type=int, default=6, help="sampling steps in each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant")
    return parser.parse_args()


def _host(path: Path) -> SimpleNamespace:
    """The host's modules and the pack, loaded as the host loads it."""
    sys.path[:] = [str(path), *(p for p in sys.path if Path(p or ".").resolve() not in (PACK, PACK / "benchmarks"))]
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.sample
    import comfy.supported_models

    import nodes

    spec = importlib.util.spec_from_file_location(NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    pack_nodes = {
        node.GET_SCHEMA().node_id: node for node in asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    }
    parts = {
        name: importlib.import_module(f"{NAME}.{name}") for name in ("scedit_core", "nodes.managed", "nodes.control")
    }
    device = comfy.model_management.get_torch_device()
    return SimpleNamespace(
        torch=torch,
        comfy=comfy,
        nodes=nodes,
        pack=pack_nodes,
        core=parts["scedit_core"],
        managed=parts["nodes.managed"],
        control=parts["nodes.control"],
        device=device,
        dtype=comfy.model_management.unet_dtype(device=device, model_params=860_000_000),
        device_name=torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        version=(path / "comfyui_version.py").read_text().split('"')[1],
    )


def _unet_config(host: SimpleNamespace, width: int) -> dict:
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": width,
        "num_heads": 8,
        "num_head_channels": -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_temporal_attention": False,
        "legacy": False,
        "context_dim": 768,
        "channel_mult": (1, 2, 4, 4),
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1] * 6 + [0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
        "dtype": host.dtype,
    }


def _randomise(host: SimpleNamespace, module, seed: int):
    torch = host.torch
    draw = torch.Generator().manual_seed(seed)
    pool = torch.randn(1 << 22, generator=draw)
    with torch.no_grad():
        for name, p in module.named_parameters():
            flat = pool.repeat(-(-p.numel() // len(pool)))[: p.numel()].reshape(p.shape)
            flat = flat * p[0].numel() ** -0.5 if p.ndim > 1 else flat * 0.02 + name.endswith("weight")
            p.copy_(flat.to(p.dtype))
    return module.eval().requires_grad_(False)


def _variants(host: SimpleNamespace, options: argparse.Namespace) -> dict[str, tuple]:
    """Name -> (model, positive, negative)."""
    torch, comfy = host.torch, host.comfy
    config = comfy.supported_models.SD15(_unet_config(host, options.width))
    config.unet_config |= _unet_config(host, options.width)
    config.manual_cast_dtype = None
    offload = comfy.model_management.unet_offload_device()
    base = config.get_model({}, "", device=offload)
    _randomise(host, base.diffusion_model, 0)
    model = comfy.model_patcher.ModelPatcher(base, host.device, offload)
    layout = host.core.SkipLayout.from_host(_unet_config(host, options.width))
    image = torch.rand(1, options.latent * 8, options.latent * 8, 3, generator=torch.Generator().manual_seed(1))
    prompts = [[[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(s)), {}]] for s in (2, 3)]

    def managed(kind, seed):
        tuner = _randomise(host, kind(layout), seed)
        return host.managed.ManagedTuner(tuner, f"random {seed}", "random")

    def controlled(controls):
        positive, negative = prompts
        for control in controls:
            apply = host.nodes.ControlNetApplyAdvanced().apply_controlnet
            positive, negative = apply(positive, negative, control, image, 0.5, 0.0, 1.0)
        return model, positive, negative

    apply_sc, apply_csc = (host.pack[name].execute for name in ("SCEditApplySCTuner", "SCEditApplyCSCTuner"))
    csc = [host.control.SCEditControl(managed(host.core.CSCTuner, seed)) for seed in (11, 12, 13, 14)]
    styled = apply_sc(model, managed(host.core.SCTuner, 10), 0.5, 0.0, 1.0, "both").args[0]
    on_model = apply_csc(model, csc[0], image, 0.5, 0.0, 1.0, "crop").args[0]
    network_config = _unet_config(host, options.width) | {"hint_channels": 3, "device": offload}
    network_config["operations"] = comfy.ops.disable_weight_init
    del network_config["out_channels"], network_config["transformer_depth_output"]
    network = _randomise(host, comfy.cldm.cldm.ControlNet(**network_config), 20)
    controlnet = comfy.controlnet.ControlNet(network, load_device=host.device)
    return {
        "base": (model, *prompts),
        "SC-Tuner": (styled, *prompts),
        "CSC-Tuner": controlled(csc[:1]),
        "CSC-Tuner on the model": (on_model, *prompts),
        "four CSC-Tuners": controlled(csc),
        "ControlNet of the host": controlled([controlnet]),
    }


def _steps(host: SimpleNamespace, variants: dict[str, tuple], options: argparse.Namespace) -> list[dict]:
    """For each variant its time for a step, and its ratio to the base of the same round."""
    weights = {name: _weights(variant) for name, variant in variants.items()}
    peaks = dict.fromkeys(variants, 0)
    first: dict[str, list[float]] = {name: [] for name in variants}
    later: dict[str, list[float]] = {name: [] for name in variants}
    for name, variant in variants.items():  # one run that is not counted, to load and to warm up
        _run(host, variant, options.latent, 2)
        print(f"ready: {name}", file=sys.stderr)
    for _ in range(options.rounds):
        for name, variant in variants.items():
            if host.device.type == "cuda":
                host.torch.cuda.reset_peak_memory_stats()
            seconds = _run(host, variant, options.latent, options.steps)
            if host.device.type == "cuda":
                peaks[name] = max(peaks[name], host.torch.cuda.max_memory_allocated())
            first[name].append(seconds[0])
            later[name].append(statistics.median(seconds[1:]))
    rows = []
    for name in variants:
        ratios = [a / b for a, b in zip(later[name], later["base"], strict=True)]
        rows.append(
            {
                "variant": name,
                "step_ms": round(1000 * statistics.median(later[name]), 2),
                "first_step_ms": round(1000 * statistics.median(first[name]), 2),
                "ratio": round(statistics.median(ratios), 4),
                "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
                "target": TARGETS.get(name),
                "weights_mb": round((weights[name] - weights["base"]) / 1e6, 1),
                "peak_mb": round(peaks[name] / 1e6, 1) if peaks[name] else None,
            }
        )
    return rows


def _weights(variant: tuple) -> int:
    """Bytes of all modules that a variant has the host load, the U-Net included."""
    model, positive, _ = variant
    control = positive[0][1].get("control")
    models = [model, *model.model_patches_models(), *(control.get_models() if control else ())]
    return sum(each.model_size() for each in {id(each.model): each for each in models}.values())


def _run(host: SimpleNamespace, variant: tuple, latent: int, steps: int) -> list[float]:
    """Seconds of each step of one run."""
    model, positive, negative = variant
    torch = host.torch
    noise = torch.randn(1, 4, latent, latent, generator=torch.Generator().manual_seed(4))
    times: list[float] = []

    def callback(*_) -> None:
        if host.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    begun = time.perf_counter()
    with torch.inference_mode():
        host.comfy.sample.sample(
            model, noise, steps, 5.0, "euler", "normal", positive, negative, torch.zeros_like(noise), seed=1,
            callback=callback, disable_pbar=True,
        )  # fmt: skip
    return [b - a for a, b in zip([begun, *times], times, strict=False)]


def _loading(host: SimpleNamespace, options: argparse.Namespace) -> dict:
    """Seconds to load a control tuner's file with kernel 3, ours and the bare safetensors, in turns."""
    from safetensors.torch import load_file

    layout = host.core.SkipLayout.from_host(_unet_config(host, options.width))
    tuner = _randomise(host, host.core.CSCTuner(layout, kernel=3), 30)
    size = sum(p.numel() for p in tuner.parameters())
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = host.core.save_tuner(tuner, Path(folder) / "control.safetensors")
        del tuner
        for _ in range(max(3, options.rounds)):
            for seconds, load in (
                (bare, lambda: _touch(load_file(path).values())),
                (ours, lambda: _loaded(host, path)),
            ):
                gc.collect()
                begun = time.perf_counter()
                load()
                seconds.append(time.perf_counter() - begun)
    return {
        "parameters": size,
        "load_tuner_s": round(statistics.median(ours), 4),
        "load_file_s": round(statistics.median(bare), 4),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, bare, strict=True)), 3),
        "target": LOAD_TARGET,
    }


def _loaded(host: SimpleNamespace, path: Path) -> None:
    _touch(host.core.load_tuner(path).parameters())


def _touch(tensors) -> None:
    """Read every weight once: files are mapped into memory, and a map that nobody has read costs nothing."""
    for tensor in tensors:
        tensor.sum()


def _print(report: dict) -> None:
    print(
        f"ComfyUI {report['host']}, {report['device']}, {report['dtype']}, latent {report['latent']}, "
        f"width {report['width']}, batch {report['batch']}"
    )
    print(f"{'variant':<26}{'step':>12}{'first step':>14}{'ratio':>9}{'range':>18}{'target':>9}{'weights':>12}")
    for row in report["steps"]:
        low, high = row["ratio_range"]
        target = "" if row["target"] is None else f"{row['target']:.2f}"
        print(
            f"{row['variant']:<26}{row['step_ms']:>9.1f} ms{row['first_step_ms']:>11.1f} ms{row['ratio']:>9.3f}"
            f"{f'{low:.3f} to {high:.3f}':>18}{target:>9}{row['weights_mb']:>9.0f} MB"
        )
    loading = report["loading"]
    print(
        f"loading {loading['parameters'] / 1e6:.1f} M parameters: {loading['load_tuner_s']:.3f} s, safetensors alone "
        f"{loading['load_file_s']:.3f} s, ratio {loading['ratio']:.2f} (target {loading['target']})"
    )


if __name__ == "__main__":
    main()
