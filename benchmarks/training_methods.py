"""Ways to train a frozen U-Net, each as one differentiable step, for benchmarks/training.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.diffusers import attach
from training.bases.encoder_graph import encoder_without_graph
from training.config import MemoryConfig
from training.memory.frozen_layers import freeze_layers, freeze_output_layers
from training.memory.preparing import prepare_tuner, prepare_unet

Forward = Callable[[dict[str, Any], Tensor], Tensor]


@dataclass
class Method:
    """What is trained, and how the U-Net predicts with it.

    forward: (the U-Net's keyword arguments, hint [B,3,8h,8w]) -> prediction [B,4,h,w].
    """

    unet: UNet2DConditionModel
    trained: nn.Module | None
    forward: Forward

    def parameters(self) -> list[nn.Parameter]:
        """Those that learn."""
        owner = self.unet if self.trained is None else self.trained
        return [p for p in owner.parameters() if p.requires_grad]

    def modules(self) -> list[nn.Module]:
        """All whose weights lie in memory."""
        return [self.unet] if self.trained is None else [self.unet, self.trained]


@dataclass(frozen=True)
class Options:
    """What is given for less memory."""

    checkpointing: bool = False
    frozen: bool = False
    fp8: bool = False

    def __str__(self) -> str:
        names = {"checkpointing": self.checkpointing, "frozen layers": self.frozen, "fp8": self.fp8}
        return " + ".join(name for name, on in names.items() if on) or "plain"


PLAIN, CHECKPOINTED, FROZEN = Options(), Options(checkpointing=True), Options(frozen=True)
BOTH, ALL = Options(checkpointing=True, frozen=True), Options(checkpointing=True, frozen=True, fp8=True)


def _tuner(unet: UNet2DConditionModel, options: Options, kind: str) -> Method:
    layout = SkipLayout.from_diffusers(unet.config)
    tuner = SCTuner(layout) if kind == "sc" else CSCTuner(layout, hint_ratio=2 if layout.family == "sdxl" else 1)
    memory = MemoryConfig(
        checkpointing=options.checkpointing, frozen_convolutions=options.frozen, fp8=options.fp8, compile=False
    )
    prepare_unet(unet, memory, torch.bfloat16)
    prepare_tuner(tuner, memory)

    def forward(inputs, hint):
        with encoder_without_graph(unet), attach(unet, [(tuner, 1.0, hint if kind == "csc" else None)]):
            return unet(**inputs).sample

    return Method(unet, tuner, forward)


def _lora(unet: UNet2DConditionModel, options: Options, rank: int) -> Method:
    _save_memory_everywhere(unet, options)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    return Method(unet, None, lambda inputs, hint: unet(**inputs).sample)


def _controlnet(unet: UNet2DConditionModel, options: Options) -> Method:
    network = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    _save_memory_in_decoder(unet, options)
    if options.checkpointing:
        network.enable_gradient_checkpointing()

    def forward(inputs, hint):
        down, middle = network(**inputs, controlnet_cond=hint, return_dict=False)
        return unet(**inputs, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample

    return Method(unet, network, forward)


def _t2i_adapter(unet: UNet2DConditionModel, options: Options) -> Method:
    xl = len(unet.config.block_out_channels) == 3
    adapter = T2IAdapter(
        in_channels=3,
        channels=[unet.config.block_out_channels[0] * m for m in (1, 2, 4, 4)],
        num_res_blocks=2,
        downscale_factor=16 if xl else 8,
        adapter_type="full_adapter_xl" if xl else "full_adapter",
    )
    _save_memory_everywhere(unet, options)
    return Method(
        unet,
        adapter,
        lambda inputs, hint: unet(**inputs, down_intrablock_additional_residuals=adapter(hint)).sample,
    )


def _full(unet: UNet2DConditionModel, options: Options) -> Method:
    unet.requires_grad_(True)
    if options.checkpointing:
        unet.enable_gradient_checkpointing()
    return Method(unet, None, lambda inputs, hint: unet(**inputs).sample)


def _save_memory_everywhere(unet: UNet2DConditionModel, options: Options) -> None:
    """For methods that differentiate the encoder too: the same layers in all blocks, and diffusers' checkpointing."""
    if options.frozen:
        for part in (unet.down_blocks, unet.mid_block, unet.up_blocks):
            freeze_layers(part)
        freeze_output_layers(unet)
    if options.checkpointing:
        unet.enable_gradient_checkpointing()


def _save_memory_in_decoder(unet: UNet2DConditionModel, options: Options) -> None:
    memory = MemoryConfig(checkpointing=options.checkpointing, frozen_convolutions=options.frozen)
    prepare_unet(unet, memory, torch.bfloat16)


# The options under which each is measured; fp8 storage is for tuners, full fine-tuning has no frozen layers.
_EACH = (PLAIN, FROZEN, CHECKPOINTED, BOTH)
METHODS: dict[str, tuple[Callable[[UNet2DConditionModel, Options], Method], tuple[Options, ...]]] = {
    "SC-Tuner": (lambda unet, options: _tuner(unet, options, "sc"), (*_EACH, ALL)),
    "CSC-Tuner": (lambda unet, options: _tuner(unet, options, "csc"), (*_EACH, ALL)),
    "LoRA r4": (lambda unet, options: _lora(unet, options, 4), (PLAIN, CHECKPOINTED)),
    "LoRA r64": (lambda unet, options: _lora(unet, options, 64), _EACH),
    "ControlNet": (_controlnet, _EACH),
    "T2I-Adapter": (_t2i_adapter, (PLAIN, CHECKPOINTED)),
    "full fine-tuning": (_full, (PLAIN, CHECKPOINTED)),
}
