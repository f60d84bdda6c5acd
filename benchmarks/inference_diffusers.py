"""diffusers as a backend of benchmarks/inference.py, for machines without a ComfyUI checkout."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import diffusers
import torch
from diffusers import ControlNetModel, T2IAdapter
from frame import device_name, mark, seconds
from torch import nn
from training_models import MODELS, Model

from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.diffusers import attach


class DiffusersBackend:
    """See inference.Backend: forwards of UNet2DConditionModel, without a scheduler's few additions."""

    def __init__(self, model: str, latent: int, width: int, dtype: str | None) -> None:
        if width not in (32, 320):
            raise SystemExit(f"--width: expected 320, or 32 for a trial, without a host, found {width}; choose one")
        self._gpu = torch.cuda.is_available()
        self._device = torch.device("cuda" if self._gpu else "cpu")
        self._dtype = getattr(torch, dtype or ("bfloat16" if self._gpu else "float32"))
        self.title = f"diffusers {diffusers.__version__}"
        self.device = device_name()
        self.dtype = str(self._dtype).removeprefix("torch.")
        torch.manual_seed(0)
        torch.set_default_dtype(self._dtype)
        try:
            with self._device:
                self._build(MODELS[model] if width == 320 else MODELS[model].tiny(), latent)
        finally:
            torch.set_default_dtype(torch.float32)
        self.variants = list(self._contexts)
        self.edit_seconds = 0.0  # measured on the host alone

    def _build(self, model: Model, latent: int) -> None:
        self._unet = model.build()
        # the base runs in turns with a variant, and must not see its hooks: the same weights in modules of its own
        self._bare = copy.deepcopy(self._unet, {id(p): p for p in self._unet.parameters()})
        layout = SkipLayout.from_diffusers(self._unet.config)
        inputs = model.inputs(2, self._device)
        inputs["sample"] = torch.randn(2, 4, latent, latent)
        self._inputs = {k: v.to(self._dtype) if k == "encoder_hidden_states" else v for k, v in inputs.items()}
        if "added_cond_kwargs" in self._inputs:
            added = self._inputs["added_cond_kwargs"]
            self._inputs["added_cond_kwargs"] = {k: v.to(self._dtype) for k, v in added.items()}
        hint = torch.rand(1, 3, latent * 8, latent * 8)
        xl = layout.family == "sdxl"
        sc, csc = SCTuner(layout), [CSCTuner(layout, hint_ratio=2 if xl else 1) for _ in range(4)]
        network = ControlNetModel.from_unet(self._unet, load_weights_from_unet=False)
        adapter = T2IAdapter(
            in_channels=3,
            channels=[self._unet.config.block_out_channels[0] * m for m in (1, 2, 4, 4)],
            num_res_blocks=2,
            downscale_factor=16 if xl else 8,
            adapter_type="full_adapter_xl" if xl else "full_adapter",
        )
        for module in (sc, *csc, network, adapter):
            _randomise(module)
        # Name -> what is open for a run, and the modules that it needs; the context gives extra inputs of a step.
        self._contexts: dict[str, tuple[Callable, list[nn.Module]]] = {
            "base": (lambda: nullcontext(dict), []),
            "SC-Tuner": (lambda: self._tuned([(sc, 0.5, None)]), [sc]),
            "CSC-Tuner": (lambda: self._tuned([(csc[0], 0.5, hint)]), csc[:1]),
            "two CSC-Tuners": (lambda: self._tuned([(t, 0.5, hint) for t in csc[:2]]), csc[:2]),
            "four CSC-Tuners": (lambda: self._tuned([(t, 0.5, hint) for t in csc]), csc),
            "T2I-Adapter": (lambda: self._adapted(adapter, hint), [adapter]),
            "ControlNet": (lambda: self._controlled([network], hint), [network]),
            "two ControlNets": (lambda: self._controlled([network, network], hint), [network]),
        }

    @contextmanager
    def _tuned(self, tuners: list) -> Iterator[Callable]:
        with attach(self._unet, tuners):
            yield dict

    @contextmanager
    def _adapted(self, adapter: T2IAdapter, hint: torch.Tensor) -> Iterator[Callable]:
        features = [f.expand(2, -1, -1, -1) for f in adapter(hint)]
        yield lambda: {"down_intrablock_additional_residuals": [f.clone() for f in features]}

    @contextmanager
    def _controlled(self, networks: list[ControlNetModel], hint: torch.Tensor) -> Iterator[Callable]:
        def residuals() -> dict:
            down, middle = None, None
            for network in networks:
                more, one = network(**self._inputs, controlnet_cond=hint.expand(2, -1, -1, -1), return_dict=False)
                down = more if down is None else [a + b for a, b in zip(down, more, strict=True)]
                middle = one if middle is None else middle + one
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

        yield residuals

    @torch.inference_mode()
    def run(self, variant: str, steps: int, after_step: Callable[[], None]) -> None:
        """See Backend."""
        unet = self._bare if variant == "base" else self._unet
        with self._contexts[variant][0]() as extras:
            for _ in range(steps):
                unet(**self._inputs, **extras())
                after_step()

    def mark(self):
        """See Backend."""
        return mark(self._gpu)

    def seconds(self, begin, end) -> float:
        """See Backend."""
        return seconds(begin, end)

    def weights(self, variant: str) -> list[torch.Tensor]:
        """See Backend."""
        modules = (self._unet, *self._contexts[variant][1])
        return list({id(p): p for module in modules for p in module.parameters()}.values())

    def peak(self, variant: str) -> int | None:
        """See Backend."""
        if not self._gpu:
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()  # the weights of all variants
        self.run(variant, 2, lambda: None)
        return torch.cuda.max_memory_allocated() - before + sum(p.nbytes for p in self.weights(variant))


def _randomise(module: nn.Module) -> None:
    """Small noise in what starts at zero, so that nothing is skipped or rounded away."""
    with torch.no_grad():
        for p in module.parameters():
            if not p.any():
                p.normal_(std=0.01)
    module.eval().requires_grad_(False)
