"""Ways to train a frozen U-Net, each as one differentiable step, for benchmarks/training.py.

The U-Net is in bfloat16; what is trained is kept in float32, as by the trainer, and cast where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, ControlNetXSAdapter, T2IAdapter, UNet2DConditionModel, UNetControlNetXSModel
from peft import IA3Config, LoHaConfig, LoraConfig, PeftConfig
from peft.tuners.loha.layer import Linear as LoHaLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.diffusers import attach
from scedit_core.fitting.distilling import residual_errors
from training.bases.encoder_graph import encoder_skips, encoder_without_graph
from training.config import MemoryConfig
from training.memory.float8 import store_in_8_bits
from training.memory.frozen_layers import freeze_layers, freeze_output_layers
from training.memory.preparing import prepare_tuner, prepare_unet

Forward = Callable[[dict[str, Any], Tensor], Tensor]


@dataclass
class Method:
    """What is trained, and how the U-Net predicts with it.

    owner:   the module whose parameters with requires_grad are trained.
    unet:    the model whose blocks can be compiled.
    forward: (the U-Net's keyword arguments, hint [B,3,8h,8w]) -> prediction [B,4,h,w].
    teacher: a ControlNet that lies in memory too.
    """

    owner: nn.Module
    unet: nn.Module
    forward: Forward
    teacher: nn.Module | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Those that learn."""
        return [p for p in self.owner.parameters() if p.requires_grad]

    def modules(self) -> list[nn.Module]:
        """All whose weights lie in memory."""
        return list(dict.fromkeys(each for each in (self.unet, self.owner, self.teacher) if each is not None))


@dataclass(frozen=True)
class Savings:
    """What is given for less memory, alike for every method.

    frozen:        frozen layers on the way of gradients keep no input; adapters of tuners are recomputed.
    checkpointing: blocks are recomputed in the backward pass.
    fp8:           what is frozen is stored in 8 bits.
    """

    frozen: bool = False
    checkpointing: bool = False
    fp8: bool = False

    def __str__(self) -> str:
        names = {"frozen layers": self.frozen, "checkpointing": self.checkpointing, "8 bits": self.fp8}
        return ", ".join(name for name, on in names.items() if on) or "none"


NONE, FROZEN, CHECKPOINTING = Savings(), Savings(frozen=True), Savings(checkpointing=True)
BOTH, ALL = Savings(True, True), Savings(True, True, True)
EACH = (NONE, FROZEN, CHECKPOINTING, BOTH, ALL)


def _tuner(unet: UNet2DConditionModel, savings: Savings, kind: str) -> Method:
    layout = SkipLayout.from_diffusers(unet.config)
    ratio = 2 if layout.family == "sdxl" else 1
    tuner = SCTuner(layout) if kind == "sc" else CSCTuner(layout, hint_ratio=ratio)
    memory = MemoryConfig(
        checkpointing=savings.checkpointing, frozen_convolutions=savings.frozen, fp8=savings.fp8, compile=False
    )
    prepare_unet(unet, memory, torch.bfloat16)
    prepare_tuner(tuner.float(), memory)

    def forward(inputs, hint):
        hint = hint.to(memory_format=torch.channels_last) if kind == "csc" else None
        with encoder_without_graph(unet), attach(unet, [(tuner, 1.0, hint)]):
            return unet(**inputs).sample

    return Method(tuner, unet, forward)


def _four(unet: UNet2DConditionModel, savings: Savings) -> Method:
    """Four SC-Tuners that share the encoder, as the trainer's `sweep` has them; the mean of their predictions."""
    _save_in_decoder(unet, savings)
    tuners = nn.ModuleList(SCTuner(SkipLayout.from_diffusers(unet.config)) for _ in range(4))

    def forward(inputs, hint):
        with encoder_without_graph(unet), attach(unet, [(tuner, 1.0, None) for tuner in tuners], apart=True):
            return unet(**inputs).sample.unflatten(0, (4, -1)).mean(0)

    return Method(tuners.float(), unet, forward)


def _beside_teacher(unet: UNet2DConditionModel, savings: Savings, residuals: bool) -> Method:
    """A CSC-Tuner with a ControlNet in memory, from which it learns the residuals, or pictures all the same."""
    network = ControlNetModel.from_unet(unet, load_weights_from_unet=False).requires_grad_(False)
    method = _tuner(unet, savings, "csc")
    method.teacher = network

    def forward(inputs, hint):
        with torch.no_grad():
            wanted, _ = network(**inputs, controlnet_cond=hint, return_dict=False)
            others = {name: value for name, value in inputs.items() if name not in ("sample", "timestep")}
            skips = encoder_skips(unet, inputs["sample"], inputs["timestep"], **others)
        errors = residual_errors(method.owner, skips, hint, wanted[::-1])
        return errors[:, None, None, None].expand(inputs["sample"].shape)

    if residuals:
        method.forward = forward
    return method


def _peft(unet: UNet2DConditionModel, savings: Savings, config: PeftConfig) -> Method:
    _save_everywhere(unet, savings)
    if savings.fp8:
        store_in_8_bits(unet)
    unet.add_adapter(config)
    for layer in unet.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.cast_input_dtype_enabled = False  # weights are cast to their input, not inputs to the weights
    return Method(_in_float32(unet), unet, lambda inputs, hint: unet(**inputs).sample)


def _controlnet(unet: UNet2DConditionModel, savings: Savings) -> Method:
    network = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    _save_in_decoder(unet, savings)
    if savings.checkpointing:
        network.enable_gradient_checkpointing()

    def forward(inputs, hint):
        down, middle = network(**inputs, controlnet_cond=hint, return_dict=False)
        return unet(**inputs, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample

    return Method(_in_float32(network), unet, forward)


def _controlnet_xs(unet: UNet2DConditionModel, savings: Savings) -> Method:
    ratio = 0.1 if unet.config.block_out_channels[0] >= 320 else 0.5  # the authors' for SD; a tiny one needs more
    network = UNetControlNetXSModel.from_unet(unet, ControlNetXSAdapter.from_unet(unet, size_ratio=ratio))
    network.freeze_unet_params()
    network.eval()
    for part in list(network.modules()):  # frozen and trained ones lie side by side
        if any(True for _ in part.children()) and not any(p.requires_grad for p in part.parameters()):
            if savings.frozen:
                freeze_layers(part)
            if savings.fp8:
                store_in_8_bits(part)
    if savings.checkpointing:
        network.enable_gradient_checkpointing()
    return Method(
        _in_float32(network),
        network,
        lambda inputs, hint: network(**inputs, controlnet_cond=hint, return_dict=False)[0],
    )


def _t2i_adapter(unet: UNet2DConditionModel, savings: Savings) -> Method:
    xl = len(unet.config.block_out_channels) == 3
    adapter = T2IAdapter(
        in_channels=3,
        channels=[unet.config.block_out_channels[0] * m for m in (1, 2, 4, 4)],
        num_res_blocks=2,
        downscale_factor=16 if xl else 8,
        adapter_type="full_adapter_xl" if xl else "full_adapter",
    )
    _save_everywhere(unet, savings)
    if savings.fp8:
        store_in_8_bits(unet)
    return Method(
        _in_float32(adapter),
        unet,
        lambda inputs, hint: unet(**inputs, down_intrablock_additional_residuals=adapter(hint)).sample,
    )


def _full(unet: UNet2DConditionModel, savings: Savings) -> Method:
    unet.requires_grad_(True)
    if savings.checkpointing:
        unet.enable_gradient_checkpointing()
    return Method(_in_float32(unet), unet, lambda inputs, hint: unet(**inputs).sample)


def _save_everywhere(unet: UNet2DConditionModel, savings: Savings) -> None:
    """For methods that differentiate the encoder too: the same layers in all blocks, and diffusers' checkpointing."""
    if savings.frozen:
        for part in (unet.down_blocks, unet.mid_block, unet.up_blocks):
            freeze_layers(part)
        freeze_output_layers(unet)
    if savings.checkpointing:
        unet.enable_gradient_checkpointing()


def _save_in_decoder(unet: UNet2DConditionModel, savings: Savings) -> None:
    memory = MemoryConfig(
        checkpointing=savings.checkpointing, frozen_convolutions=savings.frozen, fp8=savings.fp8, compile=False
    )
    prepare_unet(unet, memory, torch.bfloat16)


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *_cast(self, x))


class _Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *_cast(self, x))


class _GroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, *_cast(self, x), self.eps)


class _LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, *_cast(self, x), self.eps)


class _LoHa(LoHaLinear):
    def get_delta_weight(self, adapter_name: str) -> Tensor:
        return super().get_delta_weight(adapter_name).to(torch.bfloat16)


_CASTING = {
    nn.Linear: _Linear, nn.Conv2d: _Conv2d, nn.GroupNorm: _GroupNorm, nn.LayerNorm: _LayerNorm, LoHaLinear: _LoHa
}  # fmt: skip


def _cast(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    return layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype)


def _in_float32(owner: nn.Module) -> nn.Module:
    """What is trained in float32, cast where it is used: less is kept than under autocast, which norms in float32."""
    for layer in owner.modules():
        if any(p.requires_grad for p in layer.parameters()):
            layer.__class__ = _CASTING.get(type(layer), type(layer))
    for p in owner.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    return owner


_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_IA3 = {"target_modules": ["to_k", "to_v", "ff.net.2"], "feedforward_modules": ["ff.net.2"]}
Build = Callable[[UNet2DConditionModel, Savings], Method]


def _lora(rank: int, dora: bool = False) -> Build:
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_ATTENTION, use_dora=dora)
    return lambda unet, savings: _peft(unet, savings, config)


# How each is built, and the savings that it can have: DoRA reads the frozen weights themselves, full fine-tuning has
# none.  LoHa's rank gives it as many parameters as LoRA r64 has.
METHODS: dict[str, tuple[Build, tuple[Savings, ...]]] = {
    "SC-Tuner": (lambda unet, savings: _tuner(unet, savings, "sc"), EACH),
    "four SC-Tuners, one pass": (_four, (NONE, FROZEN)),
    "LoRA r4": (_lora(4), EACH),
    "LoRA r64": (_lora(64), EACH),
    "DoRA r64": (_lora(64, dora=True), EACH[:4]),
    "LoHa r32": (
        lambda unet, savings: _peft(unet, savings, LoHaConfig(r=32, alpha=32, target_modules=_ATTENTION)),
        EACH,
    ),
    "IA3": (lambda unet, savings: _peft(unet, savings, IA3Config(**_IA3)), EACH),
    "full fine-tuning": (_full, (NONE, CHECKPOINTING)),
    "CSC-Tuner": (lambda unet, savings: _tuner(unet, savings, "csc"), EACH),
    "CSC-Tuner, a ControlNet beside it": (
        lambda unet, savings: _beside_teacher(unet, savings, False),
        (NONE, FROZEN),
    ),
    "CSC-Tuner, a ControlNet's residuals": (
        lambda unet, savings: _beside_teacher(unet, savings, True),
        (NONE, FROZEN),
    ),
    "ControlNet": (_controlnet, EACH),
    "ControlNet-XS": (_controlnet_xs, EACH),
    "T2I-Adapter": (_t2i_adapter, EACH),
}
