"""Ways to teach the embedded base something, each as one prediction, for benchmarks/quality.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.diffusers import attach
from scedit_core.fitting.distilling import residual_errors
from training.bases.encoder_graph import encoder_skips

Predict = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass
class Method:
    """A U-Net with something to train.

    predict: (noisy [B,4,h,w], timesteps, text states [B,L,D], hints [B,3,8h,8w] or None) -> prediction [B,4,h,w].
    sampling: a context around a sampling run with these hints, where they are encoded once.
    lessons:  (a step, what `predict` takes -> a loss): the steps before it have that loss, in place of the pictures'.
    """

    trained: list[nn.Parameter]
    predict: Predict
    sampling: Callable[[Tensor | None], contextlib.AbstractContextManager] = field(
        default=lambda _hints: contextlib.nullcontext()
    )
    lessons: Sequence[tuple[int, Predict]] = ()

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.trained)


def sc(unet: UNet2DConditionModel, ratio: float = 1.0, blocks: Sequence[int] | None = None) -> Method:
    """An SC-Tuner."""
    return _attached(unet, SCTuner(SkipLayout.from_diffusers(unet.config), ratio=ratio, blocks=blocks))


def csc(unet: UNet2DConditionModel, kernel: int) -> Method:
    """A CSC-Tuner."""
    return _attached(unet, CSCTuner(SkipLayout.from_diffusers(unet.config), kernel=kernel))


def lora(unet: UNet2DConditionModel, rank: int) -> Method:
    """LoRA on all attention layers."""
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    return Method([p for p in unet.parameters() if p.requires_grad], _plain(unet))


def full(unet: UNet2DConditionModel) -> Method:
    """Full fine-tuning."""
    unet.requires_grad_(True)
    return Method(list(unet.parameters()), _plain(unet))


def controlnet(unet: UNet2DConditionModel) -> Method:
    """ControlNet, which begins as a copy of the U-Net's encoder."""
    network = ControlNetModel.from_unet(unet).requires_grad_(True)
    network.set_attn_processor(next(iter(unet.attn_processors.values())))

    def predict(noisy, timesteps, states, hints):
        down, middle = network(noisy, timesteps, states, controlnet_cond=hints, return_dict=False)
        return unet(
            noisy, timesteps, states, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample

    return Method(list(network.parameters()), predict)


def distilled(unet: UNet2DConditionModel, teacher: Path, residuals: int, predictions: int = 0) -> Method:
    """A CSC-Tuner that learns from a trained ControlNet, `teacher` as `Pupil` keeps it, before it learns from pictures.

    residuals, predictions: steps that fit what the ControlNet adds to the skips, and then what the U-Net says under it.
    """
    network = ControlNetModel.from_unet(unet)
    network.set_attn_processor(next(iter(unet.attn_processors.values())))
    with torch.no_grad():
        for p, was in zip(network.parameters(), torch.load(teacher, weights_only=True)["trained"], strict=True):
            p.copy_(was)
    network.requires_grad_(False).to(unet.device)
    tuner = CSCTuner(SkipLayout.from_diffusers(unet.config))
    method = _attached(unet, tuner)

    @torch.no_grad()
    def taught(noisy, timesteps, states, hints):
        return network(noisy, timesteps, states, controlnet_cond=hints, return_dict=False)

    def residual_loss(noisy, timesteps, states, hints):
        with torch.no_grad():
            skips = encoder_skips(unet, noisy, timesteps, encoder_hidden_states=states)
        wanted = taught(noisy, timesteps, states, hints)[0][::-1]
        return residual_errors(tuner, skips, hints, wanted).mean()

    def prediction_loss(noisy, timesteps, states, hints):
        down, middle = taught(noisy, timesteps, states, hints)
        with torch.no_grad():
            wanted = unet(
                noisy, timesteps, states, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
        return F.mse_loss(method.predict(noisy, timesteps, states, hints).float(), wanted.float())

    return replace(method, lessons=((residuals, residual_loss), (residuals + predictions, prediction_loss)))


def t2i_adapter(unet: UNet2DConditionModel) -> Method:
    """T2I-Adapter, in its form for U-Nets whose first level has no attention (as SDXL and the embedded base)."""
    adapter = T2IAdapter(
        in_channels=3,
        channels=list(unet.config.block_out_channels),
        num_res_blocks=2,
        downscale_factor=16,
        adapter_type="full_adapter_xl",
    )

    def predict(noisy, timesteps, states, hints):
        features = [f.clone() for f in adapter(hints)]  # the U-Net takes them off this list
        return unet(noisy, timesteps, states, down_intrablock_additional_residuals=features).sample

    return Method(list(adapter.parameters()), predict)


def untouched(unet: UNet2DConditionModel) -> Method:
    """The base as it is."""
    return Method([], _plain(unet))


def _attached(unet: UNet2DConditionModel, tuner: SCTuner | CSCTuner) -> Method:
    held = False

    def attached(hints):
        if isinstance(tuner, SCTuner):
            return attach(unet, [(tuner, 1.0, None)])
        return attach(unet, [(tuner, 1.0, hints.to(memory_format=torch.channels_last))])  # as the trainer does

    @contextlib.contextmanager
    def sampling(hints):
        nonlocal held
        with attached(hints):
            held = True
            try:
                yield
            finally:
                held = False

    def predict(noisy, timesteps, states, hints):
        with contextlib.nullcontext() if held else attached(hints):
            return unet(noisy, timesteps, states).sample

    return Method(list(tuner.parameters()), predict, sampling)


def _plain(unet: UNet2DConditionModel) -> Predict:
    return lambda noisy, timesteps, states, _hints: unet(noisy, timesteps, states).sample


STYLE: dict[str, Callable[[UNet2DConditionModel], Method]] = {
    "SC-Tuner": sc,
    "SC-Tuner, ratio 4": lambda unet: sc(unet, ratio=4.0),
    "LoRA r4": lambda unet: lora(unet, 4),
    "LoRA r64": lambda unet: lora(unet, 64),
    "full fine-tuning": full,
}
CONTROL: dict[str, Callable[[UNet2DConditionModel], Method]] = {
    "CSC-Tuner, kernel 1": lambda unet: csc(unet, 1),
    "CSC-Tuner, kernel 3": lambda unet: csc(unet, 3),
    "ControlNet": controlnet,
    "T2I-Adapter": t2i_adapter,
}
DISTILLING = {name: CONTROL[name] for name in ("CSC-Tuner, kernel 1", "ControlNet")}
# Of the nine skips of the embedded base, 0 is the deepest.
ABLATION: dict[str, Callable[[UNet2DConditionModel], Method]] = {
    "ratio 0.1": lambda unet: sc(unet, ratio=0.1),
    "ratio 0.25": lambda unet: sc(unet, ratio=0.25),
    "ratio 0.5": lambda unet: sc(unet, ratio=0.5),
    "ratio 1": sc,
    "ratio 1, shallow blocks": lambda unet: sc(unet, blocks=range(5, 9)),
    "ratio 1, deep blocks": lambda unet: sc(unet, blocks=range(4)),
}


def to_device(method: Method, device: torch.device) -> None:
    """Bring what is trained to where the U-Net is."""
    for p in method.trained:
        p.data = p.data.to(device)
