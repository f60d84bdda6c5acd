"""What benchmarks/training.py counts on tensors without numbers is what a real step on a CPU keeps and computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_counts import SavedBytes, StepCost, fused_attention
from scedit_core import SCTuner, SkipLayout
from scedit_core.diffusers import attach
from training.config import MemoryConfig
from training.memory.preparing import prepare_unet


def _step(device: str, mode, memory: MemoryConfig) -> int:
    """One step of an SC-Tuner under `mode`; returns the bytes saved for the backward pass."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4,
            cross_attention_dim=24,
        ).requires_grad_(False)
        prepare_unet(unet.eval(), memory, torch.float32)
        tuner = SCTuner(SkipLayout.from_diffusers(unet.config))
    saved = SavedBytes([unet, tuner])
    with fused_attention(), mode:
        inputs = torch.randn(2, 4, 16, 16, device=device), torch.zeros(2, device=device)
        states = torch.randn(2, 7, 24, device=device)
        with saved.counting(), attach(unet, [(tuner, 1.0, None)]):
            loss = F.mse_loss(unet(*inputs, states).sample, torch.empty(2, 4, 16, 16, device=device))
        total = saved.now
        loss.backward()
    assert saved.now == 0
    return total


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_counts_are_those_of_real_tensors(frozen, checkpointing):
    memory = MemoryConfig(frozen_convolutions=frozen, checkpointing=checkpointing)
    counted, real, official = StepCost([]), StepCost([]), FlopCounterMode(display=False)
    saved = _step("meta", counted, memory)
    assert saved == _step("meta", StepCost([]), memory)  # now from shapes that were looked up
    assert saved == _step("cpu", real, memory) > 0
    _step("cpu", official, memory)
    assert counted.flops == real.flops == official.get_total_flops() > 0
    assert counted.peak == pytest.approx(real.peak, rel=0.02)
    assert counted.peak > saved


def test_what_was_saved_for_a_graph_that_is_gone_is_not_kept():
    """As the graph of DoRA's norms, which it detaches."""
    saved, x = SavedBytes([]), torch.ones(4, 8)
    layer = torch.nn.Linear(8, 8)
    with saved.counting():
        layer(x).exp().detach()
        kept = layer(x).exp()
    assert saved.now == 4 * (4 * 8 + 4 * 8)  # x, once, and what exp gave
    del kept
    assert saved.now == 0
    assert saved.most() >= 4 * (4 * 8 + 4 * 8)
    assert saved.most() == 0


def test_the_peak_falls_when_tensors_are_gone():
    weight = torch.empty(100, device="meta")
    with StepCost([weight]) as cost:
        for _ in range(3):
            one = torch.empty(1000, device="meta")
            two = one + 1
            view = two[:10]
            del one, two, view
    assert cost.peak == 4 * (100 + 1000 + 1000)
    assert cost.now == weight.untyped_storage().nbytes()


def test_inference_mode_counts_what_gradients_off_count():
    """There torch hands composed operators over whole; a host samples in it."""
    model = torch.nn.Sequential(torch.nn.Linear(24, 48), torch.nn.Linear(48, 24))
    states = torch.ones(2, 7, 24)
    costs = []
    for mode in (torch.inference_mode, torch.no_grad):
        official = FlopCounterMode(display=False)
        with mode(), official, StepCost([*model.parameters(), states]) as cost:
            model(states)
        assert cost.flops == official.get_total_flops() == 2 * (2 * 14 * 24 * 48)
        costs.append(cost.peak)
    weights = sum(p.nbytes for p in model.parameters())
    assert costs[0] == costs[1] == weights + 4 * 14 * (24 + 48 + 24)
