"""Frozen layers, recomputing, 8-bit storage and compiling: same numbers, less memory, on a small real U-Net."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
from diffusers import UNet2DConditionModel
from torch import nn

from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.diffusers import attach
from scedit_core.errors import ConfigError
from scedit_core.fitting.base import TextStates
from scedit_core.fitting.step import TrainingStep
from training.bases.base_model import BaseModel
from training.bases.encoder_graph import encoder_without_graph
from training.config import MemoryConfig
from training.memory.compiling import compile_blocks, with_compiling_settled
from training.memory.float8 import Float8Conv2d, Float8Linear, to_8_bits
from training.memory.frozen_layers import FrozenConv2d, FrozenGEGLU, FrozenNormSiLU, freeze_layers, full_weight
from training.memory.preparing import prepare_tuner, prepare_unet

EXACT = [{"frozen_convolutions": f, "checkpointing": c} for f in (False, True) for c in (False, True)][1:]


@pytest.fixture(scope="module")
def plain() -> UNet2DConditionModel:
    """A U-Net with every kind of layer that SD and SDXL have, shortcuts of the skips and two transformer depths."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=4,
        cross_attention_dim=24,
    )
    return unet.requires_grad_(False).eval()


def _prepared(plain: UNet2DConditionModel, dtype: torch.dtype = torch.float32, **memory) -> UNet2DConditionModel:
    unet = copy.deepcopy(plain).to(dtype)
    prepare_unet(unet, MemoryConfig(**({"frozen_convolutions": False} | memory)), dtype)
    return unet


def _tuner(unet: nn.Module, kind: str):
    torch.manual_seed(1)
    layout = SkipLayout.from_diffusers(unet.config)
    tuner = SCTuner(layout) if kind == "sc" else CSCTuner(layout, stem_width=16)
    for p in tuner.parameters():  # adapters start at zero, where half of the gradients are zero
        nn.init.normal_(p, std=0.05)
    return tuner


def _step(unet: nn.Module, kind: str = "sc", seed: int = 2, **memory):
    """Prediction, gradients and bytes saved for the backward pass of one step of a tuner."""
    tuner, draw = _tuner(unet, kind), torch.Generator().manual_seed(seed)
    prepare_tuner(tuner, MemoryConfig(**({"frozen_convolutions": False} | memory)))
    noisy, states = torch.randn(2, 4, 16, 16, generator=draw), torch.randn(2, 7, 24, generator=draw)
    hint = torch.rand(2, 3, 128, 128, generator=draw) if kind == "csc" else None
    frozen = {p.untyped_storage().data_ptr() for p in (*unet.parameters(), *unet.buffers(), *tuner.parameters())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        dtype = unet.dtype
        with encoder_without_graph(unet), attach(unet, [(tuner, 1.0, hint)]):
            out = unet(noisy.to(dtype), torch.tensor([10, 700]), states.to(dtype)).sample
    saved = sum(storage.nbytes() for storage in kept.values())
    out.float().square().mean().backward()
    return out.detach(), {name: p.grad for name, p in tuner.named_parameters()}, saved


def _assert_same(one, other) -> None:
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        assert grad.abs().max() > 0, name
        assert torch.equal(grad, other[1][name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["sc", "csc"])
@pytest.mark.parametrize("memory", EXACT, ids=str)
def test_the_same_bits_with_less_kept(plain, memory, kind, dtype):
    expected = _step(_prepared(plain, dtype), kind)
    found = _step(_prepared(plain, dtype, **memory), kind, **memory)
    _assert_same(expected, found)
    # frozen layers change nothing in a control's hint encoder
    assert found[2] < (0.9 if kind == "csc" and not memory["checkpointing"] else 0.75) * expected[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_keep_the_skips_that_they_edit_alone(plain, dtype):
    """Under a U-Net in half precision, float32 weights too: no copy of them, no hidden features."""
    unet = _prepared(plain, dtype)
    kept = [_step(unet, frozen_convolutions=on)[2] for on in (True, False)]
    layout = SkipLayout.from_diffusers(unet.config)
    size = dtype.itemsize
    skips = sum(2 * c * (16 // s) ** 2 for c, s in zip(layout.channels, layout.strides, strict=True))
    copies = 0 if dtype == torch.float32 else sum(2 * c * c for c in layout.channels)  # biases are not needed again
    assert kept[1] - kept[0] == size * (2 * skips + copies)


def test_checkpointing_keeps_each_skip_once(plain):
    """As the encoder gave it, at the end of a residual block's input; a control keeps its hint and features besides.

    With the edit outside of what is recomputed, a style keeps it before and after the edit; a control after the edit,
    and with its features added.
    """
    memory = {"frozen_convolutions": True, "checkpointing": True}
    unet, twice = _prepared(plain, **memory), _prepared(plain, **memory)
    for block in twice.up_blocks:
        for resnet in block.resnets:
            del resnet.edit_input
    layout = SkipLayout.from_diffusers(unet.config)
    skips = 4 * sum(2 * c * (16 // s) ** 2 for c, s in zip(layout.channels, layout.strides, strict=True))
    style, control = (_step(unet, kind, **memory) for kind in ("sc", "csc"))
    for kind, found, more in (("sc", style, skips), ("csc", control, 0)):
        expected = _step(twice, kind, **memory)
        _assert_same(expected, found)
        assert expected[2] - found[2] == more
    assert control[2] - style[2] == 4 * 2 * 3 * 128 * 128 + skips  # features are as large as the skips


def test_channels_last_gives_the_same_bits(plain):
    expected = _step(_prepared(plain).to(memory_format=torch.channels_last))
    _assert_same(expected, _step(_prepared(plain, frozen_convolutions=True).to(memory_format=torch.channels_last)))


def test_only_the_decoder_changes_and_names_stay(plain):
    unet = _prepared(plain, frozen_convolutions=True, checkpointing=True)
    assert unet.state_dict().keys() == plain.state_dict().keys()
    changed = {name for name, part in unet.named_modules() if isinstance(part, FrozenConv2d | FrozenNormSiLU)}
    assert {name.split(".")[0] for name in changed} == {"up_blocks", "conv_norm_out", "conv_out"}
    for name, part in unet.up_blocks.named_modules():
        assert type(part) is not nn.Conv2d, name
    assert sum(isinstance(part, FrozenGEGLU) for part in unet.modules()) == 9
    for half in (unet.down_blocks, unet.mid_block):
        assert not any(getattr(part, "gradient_checkpointing", False) for part in half.modules())
    assert all(block.gradient_checkpointing for block in unet.up_blocks)


def test_without_gradients_nothing_changes(plain):
    unet = _prepared(plain, frozen_convolutions=True, checkpointing=True)
    arguments = torch.randn(1, 4, 16, 16), torch.tensor([3]), torch.randn(1, 7, 24)
    with torch.inference_mode():
        assert torch.equal(unet(*arguments).sample, plain(*arguments).sample)


def test_trainable_weights_are_refused(plain):
    unet = copy.deepcopy(plain)
    unet.up_blocks[1].resnets[0].conv1.weight.requires_grad_()
    with pytest.raises(
        RuntimeError, match=r"expected parameters without requires_grad, found 1\.resnets\.0\.conv1\.weight"
    ):
        freeze_layers(unet.up_blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_8_bits_keep_every_weight_to_a_sixteenth(dtype):
    sizes = torch.logspace(-2, 1, 48)[:, None, None, None]
    weight = torch.randn(48, 40, 3, 3, generator=torch.Generator().manual_seed(0)) * sizes
    weight[7] = 0
    weight = weight.to(dtype)
    stored, scale = to_8_bits(weight)
    assert stored.element_size() == 1
    assert scale.dtype == dtype
    back = full_weight(stored, scale, dtype)
    peaks = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
    large = weight.abs() > peaks / 2**13  # e4m3 has 2^-6 to 448 as normal numbers
    assert torch.all((back - weight).abs()[large] <= weight.abs()[large].float() / 15)
    assert torch.all(back[7] == 0)
    assert torch.isfinite(back).all()


@pytest.mark.parametrize("frozen", [False, True])
def test_8_bit_storage_computes_with_the_stored_weights(plain, frozen):
    """A U-Net in full precision with the rounded weights gives the same numbers: casting again loses nothing."""
    unet = _prepared(plain, fp8=True, frozen_convolutions=frozen, checkpointing=frozen)
    rounded = copy.deepcopy(plain)
    layers = dict(rounded.named_modules())
    changed = 0
    for name, layer in unet.named_modules():
        if isinstance(layer, Float8Conv2d | Float8Linear):
            layers[name].weight.data = full_weight(layer.weight, layer.weight_scale, torch.float32)
            changed += layer.weight.numel()
    assert changed > 0.85 * sum(p.numel() for p in plain.parameters())
    assert {type(unet.conv_in), type(unet.time_embedding.linear_1)} == {nn.Conv2d, nn.Linear}
    assert unet.dtype == torch.float32
    _assert_same(_step(rounded), _step(unet))
    one, other = _step(plain)[0], _step(unet)[0]
    assert 0 < (one - other).norm() / one.norm() < 0.1


def test_8_bit_weights_stay_8_bit_while_training(plain):
    """What is saved for the backward pass does not grow by weights that were cast."""
    kept, expected = _step(_prepared(plain, fp8=True))[2], _step(_prepared(plain, frozen_convolutions=False))[2]
    assert kept < expected
    unet = _prepared(plain, fp8=True, frozen_convolutions=True)
    assert _step(unet)[2] <= _step(_prepared(plain, frozen_convolutions=True))[2]
    unet.to(torch.float32)  # must not undo it
    stored = sum(p.numel() * p.element_size() for p in (*unet.parameters(), *unet.buffers()))
    assert stored < 0.4 * sum(p.numel() * p.element_size() for p in plain.parameters())


def test_compiled_blocks_agree_and_are_compiled_once(plain):
    """On one level of one layer: compiling takes a CPU long."""
    config = {**plain.config, "block_out_channels": (32,), "layers_per_block": 1, "transformer_layers_per_block": 1}
    config |= {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    torch.manual_seed(0)
    small = UNet2DConditionModel.from_config(config).requires_grad_(False).eval()
    memory = {"frozen_convolutions": True, "checkpointing": True, "fp8": True}
    expected = [_step(_prepared(small, **memory), seed=seed) for seed in (2, 3)]
    unet = _prepared(small, **memory)
    compile_blocks(unet, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    found = [_step(unet, seed=2)]
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found.append(_step(unet, seed=3))
    assert compiled >= 3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other[0], one[0], rtol=1e-4, atol=1e-5)
        for name, grad in one[1].items():
            torch.testing.assert_close(other[1][name], grad, rtol=1e-3, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("asked", "capability", "steps", "fp8", "wanted"),
    [
        ("auto", None, 5000, False, False),
        ("auto", (9, 0), 5000, False, True),
        ("auto", (9, 0), 499, False, False),
        ("auto", (7, 5), 5000, False, False),
        ("auto", (8, 6), 5000, True, False),
        ("auto", (8, 9), 5000, True, True),
        (True, (8, 6), 10, False, True),
        (True, None, 10, True, True),
        (False, (9, 0), 5000, False, False),
    ],
)
def test_compiling_is_settled_by_gpu_and_length_of_the_run(monkeypatch, asked, capability, steps, fp8, wanted):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    device = torch.device("cpu" if capability is None else "cuda")
    with torch._dynamo.config.patch(suppress_errors=False):
        settled = with_compiling_settled(MemoryConfig(compile=asked, fp8=fp8), device, steps)
        assert torch._dynamo.config.suppress_errors is (asked == "auto" and wanted)  # what nobody asked for ends no run
    assert settled.compile is wanted


def test_compiling_8_bit_weights_is_refused_where_triton_cannot(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(ConfigError, match=r"memory\.compile: expected .* 8\.9 or newer with memory\.fp8, found 8\.6"):
        with_compiling_settled(MemoryConfig(compile=True, fp8=True), torch.device("cuda"), 10)


def test_8_bit_storage_goes_through_distributed_training(plain, tmp_path):
    """DistributedDataParallel synchronises all weights when it wraps a step; it cannot take float8 numbers."""
    unet, tuner = _prepared(plain, fp8=True), _tuner(plain, "sc")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        base = BaseModel("tiny", SimpleNamespace(unet=unet), tuner.layout, torch.device("cpu"))
        step = nn.parallel.DistributedDataParallel(TrainingStep(base, tuner))
        inputs = torch.randn(1, 4, 16, 16), torch.tensor([10]), None
        step(*inputs, TextStates(torch.randn(1, 7, 24)), None).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tuner.parameters())
