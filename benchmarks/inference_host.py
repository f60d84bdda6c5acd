"""The host as a backend of benchmarks/inference*.py: its sampler, its nodes, and the pack as it loads it."""

from __future__ import annotations

import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.frame import PACK, device_name, host_version
from benchmarks.lllite import LLLite
from benchmarks.models import MODELS

NAME = "scedit_pack_benchmarked"


class HostBackend:
    """A model that samples, with all that it is compared with, the base first in `variants`.

    host:          of `load_host`.
    compiled:      the backend of torch.compile for the whole U-Net, by ComfyUI's own node; None for eager.
    channels_last: the order of the U-Net's weights in memory.
    only:          the variants to make; all by default.
    edit_seconds:  time spent so far in edits of skips and in computing controls, 0 where it is not measured.
    """

    def __init__(
        self, host: SimpleNamespace, model: str, latent: int, width: int, compiled: str | None = None,
        channels_last: bool = False, only: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        self._host, self._latent = host, latent
        self._variants = _variants(host, model, latent, width, channels_last, only)
        if compiled:
            node = importlib.import_module("comfy_extras.nodes_torch_compile").TorchCompileModel
            for name, (patcher, *prompts) in self._variants.items():
                self._variants[name] = (node.execute(patcher, compiled).args[0], *prompts)
        self.title = f"ComfyUI {self._host.version}"
        self.dtype = str(self._host.dtype).removeprefix("torch.")
        self.device = device_name()
        self.variants = list(self._variants)
        self.edit_seconds, self._editing = 0.0, False
        if self._host.device.type == "cpu":  # where calls return when their work is done
            controlnet = self._host.comfy.controlnet
            self._time(host.pack.edits, "__call__")
            for control in (host.pack.control.SCEditControl, controlnet.ControlNet, controlnet.T2IAdapter):
                self._time(control, "get_control")
            self._time(LLLite, "forward")

    def _time(self, kind: type, name: str) -> None:
        """Add the seconds in that method to `edit_seconds`, the outermost call's alone."""
        method = getattr(kind, name)

        def timed(*args, **named):
            if self._editing:
                return method(*args, **named)
            self._editing, begun = True, time.perf_counter()
            try:
                return method(*args, **named)
            finally:
                self._editing = False
                self.edit_seconds += time.perf_counter() - begun

        setattr(kind, name, timed)

    def run(self, variant: str, steps: int, after_step: Callable[[], None]):
        """Sample, calling `after_step` after each of `steps` steps.  Returns the latents [1,4,h,w]."""
        model, positive, negative = self._variants[variant]
        noise = torch.randn(1, 4, self._latent, self._latent, generator=torch.Generator().manual_seed(4))
        with torch.inference_mode():
            return self._host.comfy.sample.sample(
                model, noise, steps, 5.0, "euler", "normal", positive, negative, torch.zeros_like(noise), seed=1,
                callback=lambda *_: after_step(), disable_pbar=True,
            )  # fmt: skip

    def weights(self, variant: str) -> list:
        """All weights that the variant needs, the U-Net's included, each once."""
        model, positive, _ = self._variants[variant]
        control = positive[0][1].get("control")
        patchers = [model, *model.model_patches_models(), *(control.get_models() if control else ())]
        modules = [patcher.model for patcher in patchers]
        patches = model.model_options["transformer_options"].get("patches", {})
        modules += [each for each in patches.get("attn1_patch", ()) if isinstance(each, LLLite)]
        while control is not None:  # the host moves adapters by itself, without a ModelPatcher
            modules.append(getattr(control, "t2i_model", None))
            control = control.previous_controlnet
        return list({id(p): p for module in modules if module is not None for p in module.parameters()}.values())

    def peak(self, variant: str) -> int | None:
        """The most bytes that the variant holds on a GPU in two steps; without one None, and nothing sampled."""
        if self._host.device.type == "cpu":
            return None
        self._host.comfy.model_management.unload_all_models()  # what other variants have loaded
        torch.cuda.reset_peak_memory_stats()
        self.run(variant, 2, lambda: None)
        return torch.cuda.max_memory_allocated()


class _NoVideos(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for the package `av`: the host imports it to read videos, which nothing here does."""

    def find_spec(self, name, path=None, target=None):
        """See MetaPathFinder."""
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "av" else None

    def exec_module(self, module) -> None:
        """See Loader."""
        module.__getattr__ = lambda name: type(name, (), {})


def load_host(path: Path | None, dtype: str | None) -> SimpleNamespace:
    """The host's modules and the pack; `dtype` instead of the one that it would choose.

    Ends the script where `path` is no ComfyUI checkout.
    """
    version = host_version(path)
    sys.path[:] = [str(path), *(p for p in sys.path if Path(p or ".").resolve() != PACK)]
    if importlib.util.find_spec("av") is None:
        sys.meta_path.append(_NoVideos())
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    if dtype is not None:
        setattr(comfy.cli_args.args, {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[dtype] + "_unet", True)
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_detection
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy.sample
    import comfy.t2i_adapter.adapter

    import nodes

    device = comfy.model_management.get_torch_device()
    return SimpleNamespace(
        comfy=comfy,
        nodes=nodes,
        pack=_pack(),
        device=device,
        offload=comfy.model_management.unet_offload_device(),
        dtype=comfy.model_management.unet_dtype(device=device, model_params=860_000_000),
        version=version,
    )


def _pack() -> SimpleNamespace:
    """This pack, loaded as the host loads it.  edits: the class whose calls edit skips."""
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    extension = asyncio.run(sys.modules[NAME].comfy_entrypoint())
    host = f"{NAME}.nodes.host"
    return SimpleNamespace(
        nodes={node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())},
        core=importlib.import_module(f"{NAME}.scedit_core"),
        managed=importlib.import_module(f"{host}.managed"),
        control=importlib.import_module(f"{host}.control"),
        edits=importlib.import_module(f"{host}.forward").Forward,
    )


def base_model(
    host: SimpleNamespace, name: str, width: int, dtype: torch.dtype, computing: torch.dtype | None = None,
    device: str | None = None,
) -> Any:  # fmt: skip
    """ComfyUI's model of one of `MODELS`, with weights as they come; `width` channels in its first level, truly 320.

    dtype: of the weights.  computing: that of their products, where it is another.
    """
    with torch.device("meta"):
        weights = MODELS[name].build().state_dict()
    config = host.comfy.model_detection.model_config_from_diffusers_unet(weights)
    config.unet_config |= {"model_channels": width, "dtype": dtype}
    config.manual_cast_dtype = computing
    return config.get_model({}, "", device=torch.device(device or host.offload))


def randomise(host: SimpleNamespace, module, seed: int):
    """Noise of std 1/sqrt(fan in), cut from one pool: drawing a number for each weight would take minutes."""
    pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, p in module.named_parameters():
            flat = pool.repeat(-(-p.numel() // len(pool)))[: p.numel()].reshape(p.shape)
            flat = flat * p[0].numel() ** -0.5 if p.ndim > 1 else flat * 0.02 + name.endswith("weight")
            p.copy_(flat.to(p.dtype))
    return module.eval().requires_grad_(False)


def _variants(
    host: SimpleNamespace, model_name: str, latent: int, width: int, channels_last: bool, only: Sequence[str] | None,
) -> dict[str, tuple]:  # fmt: skip
    """Name -> (model, positive, negative)."""
    comfy, pack = host.comfy, host.pack
    base = base_model(host, model_name, width, host.dtype)
    config = base.model_config.unet_config
    randomise(host, base.diffusion_model, 0)
    if channels_last:
        base.diffusion_model.to(memory_format=torch.channels_last)
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)  # as ComfyUI chooses it
    model = kind(base, host.device, host.offload)
    image = torch.rand(1, latent * 8, latent * 8, 3, generator=torch.Generator().manual_seed(1))
    prompts = [prompt(model_name, seed) for seed in (2, 3)]

    def controlled(controls, model=model):
        positive, negative = prompts
        for control in controls:
            apply = host.nodes.ControlNetApplyAdvanced().apply_controlnet
            positive, negative = apply(positive, negative, control, image, 0.5, 0.0, 1.0)
        return model, positive, negative

    layout = pack.core.SkipLayout.from_host(config)

    def managed(kind, seed, **options):
        return pack.managed.ManagedTuner(randomise(host, kind(layout, **options), seed), f"random {seed}", "random")

    def styled(*seeds):
        made = model
        for seed in seeds:
            apply = pack.nodes["SCEditApplySCTuner"].execute
            made = apply(made, managed(pack.core.SCTuner, seed), 0.5, 0.0, 1.0, "both").args[0]
        return made

    ratio = 2 if model_name == "sdxl" else 1
    controls = [managed(pack.core.CSCTuner, seed, hint_ratio=ratio) for seed in (11, 12, 13, 14)]
    csc = [pack.control.SCEditControl(each) for each in controls]

    def on_model():
        apply = pack.nodes["SCEditApplyCSCTuner"].execute
        return apply(model, csc[0], image, 0.5, 0.0, 1.0, "crop").args[0], *prompts

    def two_controlnets():
        network = _controlnet(host, config)
        return controlled([network, network.copy()])

    def light():
        patched, patch = model.clone(), randomise(host, LLLite(base.diffusion_model, image), 22)
        patch.to(host.device, host.dtype)
        patched.set_model_attn1_patch(patch)
        patched.set_model_attn2_patch(patch)
        return patched, *prompts

    makers = {
        "base": lambda: (model, *prompts),
        "SC-Tuner": lambda: (styled(10), *prompts),
        "CSC-Tuner": lambda: controlled(csc[:1]),
        "CSC-Tuner on the model": on_model,
        "two CSC-Tuners": lambda: controlled(csc[:2]),
        "four CSC-Tuners": lambda: controlled(csc),
        "four CSC, two SC-Tuners": lambda: controlled(csc, styled(15, 16)),
        "T2I-Adapter": lambda: controlled([_adapter(host, model_name, config)]),
        "ControlNet-LLLite": light,
        "ControlNet": lambda: controlled([_controlnet(host, config)]),
        "two ControlNets": two_controlnets,
    }
    return {name: make() for name, make in makers.items() if only is None or name in only}


def prompt(model: str, seed: int) -> list:
    """A CONDITIONING of noise."""
    draw, config = torch.Generator().manual_seed(seed), MODELS[model].config
    extras = {"pooled_output": torch.randn(1, 1280, generator=draw)} if "addition_embed_type" in config else {}
    return [[torch.randn(1, 77, config["cross_attention_dim"], generator=draw), extras]]


def _controlnet(host: SimpleNamespace, config: dict):
    config = config | {
        "hint_channels": 3, "device": host.offload, "operations": host.comfy.ops.disable_weight_init
    }  # fmt: skip
    del config["out_channels"], config["transformer_depth_output"]
    network = randomise(host, host.comfy.cldm.cldm.ControlNet(**config), 20)
    return host.comfy.controlnet.ControlNet(network, load_device=host.device)


def _adapter(host: SimpleNamespace, model_name: str, config: dict):
    xl = model_name == "sdxl"
    widths = [config["model_channels"] * m for m in (1, 2, 4, 4)]
    network = host.comfy.t2i_adapter.adapter.Adapter(
        channels=widths, nums_rb=2, cin=3 * (256 if xl else 64), ksize=1, sk=True, use_conv=False, xl=xl
    )
    network = randomise(host, network.to(host.dtype), 21)
    return host.comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", device=host.device)
