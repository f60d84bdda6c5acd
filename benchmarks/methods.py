"""Ways to teach a frozen U-Net something, each as one prediction, for the benchmarks of training and quality.

What is trained is kept in float32 under a U-Net in half precision too, as by the trainer, and cast where it is used.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
from training.bases.encoder_graph import decoder_of, encoder_skips, encoder_without_graph
from training.config import MemoryConfig
from training.memory.float8 import store_in_8_bits
from training.memory.frozen_layers import freeze_layers, freeze_output_layers
from training.memory.preparing import prepare_tuner, prepare_unet

Forward = Callable[[dict[str, Any], Tensor | None], Tensor]
ALWAYS = 10**9


def _nothing(_hint: Tensor | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


@dataclass
class Method:
    """What is trained, and how the U-Net predicts with it.

    owner:    the module whose parameters with requires_grad are trained.
    unet:     the model whose blocks can be compiled.
    forward:  (the U-Net's keyword arguments, hint [B,3,8h,8w] or None) -> prediction [B,4,h,w].
    sampling: a context around a sampling run with one hint, where it is encoded once.
    lessons:  (a step, what `forward` takes -> a loss): the steps before it have that loss, in place of the pictures'.
    teacher:  a ControlNet that lies in memory too.
    resting:  modules of the U-Net that no step needs, which lie in the CPU's memory.
    """

    owner: nn.Module
    unet: nn.Module
    forward: Forward
    sampling: Callable[[Tensor | None], contextlib.AbstractContextManager] = _nothing
    lessons: Sequence[tuple[int, Forward]] = ()
    teacher: nn.Module | None = None
    resting: Sequence[nn.Module] = ()

    def parameters(self) -> list[nn.Parameter]:
        """Those that learn."""
        return [p for p in self.owner.parameters() if p.requires_grad]

    def modules(self) -> list[nn.Module]:
        """All whose weights lie in memory."""
        return list(dict.fromkeys(each for each in (self.unet, self.owner, self.teacher) if each is not None))

    def weights(self) -> list[Tensor]:
        """Parameters and buffers that lie in the device's memory."""
        resting = {t for module in self.resting for t in _tensors(module)}
        return [t for module in self.modules() for t in _tensors(module) if t not in resting]


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


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

    def memory(self) -> MemoryConfig:
        """The trainer's settings."""
        return MemoryConfig(
            checkpointing=self.checkpointing, frozen_convolutions=self.frozen, fp8=self.fp8, compile=False
        )


NONE, FROZEN, CHECKPOINTING = Savings(), Savings(frozen=True), Savings(checkpointing=True)
EACH = (NONE, FROZEN, CHECKPOINTING, Savings(True, True), Savings(True, True, True))


def untouched(unet: UNet2DConditionModel) -> Method:
    """The base as it is."""
    return Method(nn.Identity(), unet, lambda inputs, _hint: unet(**inputs).sample)


def sc(unet: UNet2DConditionModel, savings: Savings = NONE, **options: Any) -> Method:
    """An SC-Tuner."""
    return with_tuners(unet, savings, [SCTuner(SkipLayout.from_diffusers(unet.config), **options)])


def csc(unet: UNet2DConditionModel, savings: Savings = NONE, kernel: int = 1) -> Method:
    """A CSC-Tuner."""
    layout = SkipLayout.from_diffusers(unet.config)
    ratio = 2 if layout.family == "sdxl" else 1
    return with_tuners(unet, savings, [CSCTuner(layout, kernel=kernel, hint_ratio=ratio)])


def four(unet: UNet2DConditionModel, savings: Savings = NONE) -> Method:
    """Four SC-Tuners that share the encoder, as the trainer's `sweep` has them; the mean of their predictions."""
    layout = SkipLayout.from_diffusers(unet.config)
    return with_tuners(unet, savings, [SCTuner(layout) for _ in range(4)])


def with_tuners(unet: UNet2DConditionModel, savings: Savings, tuners: list[SCTuner | CSCTuner]) -> Method:
    """Tuners of one kind, trained as by the trainer; of several each makes a prediction of its own."""
    prepare_unet(unet, savings.memory(), unet.dtype)
    for tuner in tuners:
        prepare_tuner(tuner.float(), savings.memory())
    control, apart, held = isinstance(tuners[0], CSCTuner), len(tuners) > 1, False

    @contextlib.contextmanager
    def attached(hint):
        nonlocal held
        if held:  # by a sampling run, which encodes its hint once
            yield
            return
        hint = hint.to(memory_format=torch.channels_last) if control else None  # as the trainer does
        with encoder_without_graph(unet), attach(unet, [(tuner, 1.0, hint) for tuner in tuners], apart=apart):
            held = True
            try:
                yield
            finally:
                held = False

    def forward(inputs, hint):
        with attached(hint):
            found = unet(**inputs).sample
        return found.unflatten(0, (len(tuners), -1)).mean(0) if apart else found

    return Method(nn.ModuleList(tuners) if apart else tuners[0], unet, forward, attached)


def distilled(
    unet: UNet2DConditionModel, savings: Savings = NONE, teacher: Path | None = None, residuals: int = ALWAYS,
    predictions: int = 0,
) -> Method:  # fmt: skip
    """A CSC-Tuner that learns from a ControlNet before it learns from pictures.

    teacher: the ControlNet's weights, as benchmarks/quality.py keeps them.
    residuals, predictions: steps that fit what the ControlNet adds to the skips, and then what the U-Net says under it.
    """
    network = _controlnet_of(unet)
    if teacher is not None:
        for p, value in zip(network.parameters(), torch.load(teacher, weights_only=True)["trained"], strict=True):
            p.data.copy_(value)
    network.requires_grad_(False)
    method = csc(unet, savings)
    method.teacher = network

    def residual_loss(inputs, hint):
        with torch.no_grad():
            wanted, _ = network(**inputs, controlnet_cond=hint, return_dict=False)
            others = {name: value for name, value in inputs.items() if name not in ("sample", "timestep")}
            skips = encoder_skips(unet, inputs["sample"], inputs["timestep"], **others)
        return residual_errors(method.owner, skips, hint, wanted[::-1]).mean()

    def prediction_loss(inputs, hint):
        with torch.no_grad():
            wanted = _under(network, unet, inputs, hint)
        return F.mse_loss(method.forward(inputs, hint).float(), wanted.float())

    method.lessons = ((residuals, residual_loss), (residuals + predictions, prediction_loss))
    return method


def _fitting_residuals(unet: UNet2DConditionModel, savings: Savings) -> Method:
    """As a prediction, so that it can be trained as the others are."""
    method = distilled(unet, savings)
    (_, loss), _ = method.lessons
    method.resting = decoder_of(unet)
    method.forward = lambda inputs, hint: loss(inputs, hint).expand(inputs["sample"].shape)
    return method


def controlnet(unet: UNet2DConditionModel, savings: Savings = NONE) -> Method:
    """ControlNet, which begins as a copy of the U-Net's encoder."""
    network = _controlnet_of(unet)
    prepare_unet(unet, savings.memory(), unet.dtype)
    if savings.checkpointing:
        network.enable_gradient_checkpointing()
    return Method(_in_float32(network), unet, lambda inputs, hint: _under(network, unet, inputs, hint))


def _controlnet_of(unet: UNet2DConditionModel) -> ControlNetModel:
    network = ControlNetModel.from_unet(unet)
    network.set_attn_processor(next(iter(unet.attn_processors.values())))
    return network


def _under(network: ControlNetModel, unet: UNet2DConditionModel, inputs: dict[str, Any], hint: Tensor) -> Tensor:
    down, middle = network(**inputs, controlnet_cond=hint, return_dict=False)
    return unet(**inputs, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample


def controlnet_xs(unet: UNet2DConditionModel, savings: Savings = NONE) -> Method:
    """ControlNet-XS."""
    ratio = 0.1 if unet.config.block_out_channels[0] >= 320 else 0.5  # the authors' for SD; a tiny one needs more
    network = UNetControlNetXSModel.from_unet(unet, ControlNetXSAdapter.from_unet(unet, size_ratio=ratio))
    network.freeze_unet_params()
    network.eval()
    network.set_attn_processor(next(iter(unet.attn_processors.values())))
    for part in list(network.modules()):  # frozen and trained ones lie side by side
        if any(True for _ in part.children()) and not any(p.requires_grad for p in part.parameters()):
            if savings.frozen:
                freeze_layers(part)
            if savings.fp8:
                store_in_8_bits(part)
    if savings.checkpointing:
        network.enable_gradient_checkpointing()

    def forward(inputs, hint):
        return network(**inputs, controlnet_cond=hint, return_dict=False)[0]

    return Method(_in_float32(network), network, forward)


def t2i_adapter(unet: UNet2DConditionModel, savings: Savings = NONE) -> Method:
    """T2I-Adapter; for three levels (SDXL, the embedded base) in SDXL's form, with a block for the middle."""
    widths = list(unet.config.block_out_channels)
    xl = len(widths) == 3
    adapter = T2IAdapter(
        in_channels=3,
        channels=[*widths, widths[-1]] if xl else widths,
        num_res_blocks=2,
        downscale_factor=16 if xl else 8,
        adapter_type="full_adapter_xl" if xl else "full_adapter",
    )
    _save_everywhere(unet, savings)

    def forward(inputs, hint):
        return unet(**inputs, down_intrablock_additional_residuals=adapter(hint)).sample

    return Method(_in_float32(adapter), unet, forward)


def full(unet: UNet2DConditionModel, savings: Savings = NONE) -> Method:
    """Full fine-tuning."""
    unet.requires_grad_(True)
    if savings.checkpointing:
        unet.enable_gradient_checkpointing()
    return Method(_in_float32(unet), unet, untouched(unet).forward)


def in_peft(unet: UNet2DConditionModel, savings: Savings = NONE, *, config: PeftConfig) -> Method:
    """LoRA and its kin."""
    _save_everywhere(unet, savings)
    unet.add_adapter(config)
    return Method(_in_float32(unet), unet, untouched(unet).forward)


def _save_everywhere(unet: UNet2DConditionModel, savings: Savings) -> None:
    """For methods that differentiate the encoder too: the same layers in all blocks, and diffusers' checkpointing."""
    if savings.frozen:
        for part in (unet.down_blocks, unet.mid_block, unet.up_blocks):
            freeze_layers(part)
        freeze_output_layers(unet)
    if savings.checkpointing:
        unet.enable_gradient_checkpointing()
    if savings.fp8:
        store_in_8_bits(unet)


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
    """What is trained in float32, cast where it is used: less is kept than under autocast, which norms in float32.

    Where all is in float32 already it stays as it is, for autocast.
    """
    if all(p.dtype == torch.float32 for p in owner.parameters()):
        return owner
    for layer in owner.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.cast_input_dtype_enabled = False  # weights are cast to their input, not inputs to the weights
        if any(p.requires_grad for p in layer.parameters()):
            layer.__class__ = _CASTING.get(type(layer), type(layer))
    for p in owner.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    return owner


_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_FORWARD = {"target_modules": ["to_k", "to_v", "ff.net.2"], "feedforward_modules": ["ff.net.2"]}
LORA4, LORA64, DORA64 = (
    partial(in_peft, config=LoraConfig(r=rank, lora_alpha=rank, target_modules=_ATTENTION, use_dora=dora))
    for rank, dora in ((4, False), (64, False), (64, True))
)
LOHA32 = partial(in_peft, config=LoHaConfig(r=32, alpha=32, target_modules=_ATTENTION))  # as many numbers as LoRA r64
# For benchmarks/training.py: how each is built, and the savings that it can have.  DoRA reads the frozen weights
# themselves, full fine-tuning has none.
METHODS: dict[str, tuple[Callable[..., Method], tuple[Savings, ...]]] = {
    "SC-Tuner": (sc, EACH),
    "four SC-Tuners, one pass": (four, (NONE, FROZEN)),
    "LoRA r4": (LORA4, EACH),
    "LoRA r64": (LORA64, EACH),
    "DoRA r64": (DORA64, EACH[:4]),
    "LoHa r32": (LOHA32, EACH),
    "IA3": (partial(in_peft, config=IA3Config(**_FORWARD)), EACH),
    "full fine-tuning": (full, (NONE, CHECKPOINTING)),
    "CSC-Tuner": (csc, EACH),
    "CSC-Tuner, a ControlNet beside it": (distilled, (NONE, FROZEN)),
    "CSC-Tuner, a ControlNet's residuals": (_fitting_residuals, (NONE, FROZEN)),
    "ControlNet": (controlnet, EACH),
    "ControlNet-XS": (controlnet_xs, EACH),
    "T2I-Adapter": (t2i_adapter, EACH),
}
# For benchmarks/quality.py, by task.  Of the nine skips of the embedded base, 0 is the deepest.
TAUGHT: dict[str, dict[str, Callable[[UNet2DConditionModel], Method]]] = {
    "style": {
        "SC-Tuner": sc,
        "SC-Tuner, ratio 4": partial(sc, ratio=4.0),
        "LoRA r4": LORA4,
        "LoRA r64": LORA64,
        "DoRA r64": DORA64,
        "full fine-tuning": full,
    },
    "control": {
        "CSC-Tuner, kernel 1": csc,
        "CSC-Tuner, kernel 3": partial(csc, kernel=3),
        "ControlNet": controlnet,
        "ControlNet-XS": controlnet_xs,
        "T2I-Adapter": t2i_adapter,
    },
    "distilling": {"CSC-Tuner, kernel 1": csc, "ControlNet": controlnet},
    "ablation": {
        "ratio 0.1": partial(sc, ratio=0.1),
        "ratio 0.25": partial(sc, ratio=0.25),
        "ratio 0.5": partial(sc, ratio=0.5),
        "ratio 1": sc,
        "ratio 1, shallow blocks": partial(sc, blocks=range(5, 9)),
        "ratio 1, deep blocks": partial(sc, blocks=range(4)),
    },
}
