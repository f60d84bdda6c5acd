"""Training on any MODEL: in whatever its weights are stored, wherever they lie, with whatever is applied to it."""

from __future__ import annotations

import json
import sys

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import kept_bytes
import pytest
import torch
import torch.nn.functional as F
from small_model import TEXT_WIDTH, outputs_of, prompt, randomise, relative, small_model
from small_tuners import apply_sc, layout, sc_tuner
from train_on_model_widgets import latents


def gradients(training, model, tuner, **options) -> dict[str, torch.Tensor]:
    """Of the tuner's parameters for one step on `model`."""
    draw = torch.Generator().manual_seed(1)
    noisy, states = torch.randn(2, 4, 16, 16, generator=draw), torch.randn(2, 7, TEXT_WIDTH, generator=draw)
    pooled = torch.randn(2, 1280, generator=draw)
    sizes = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]] * 2)
    with torch.inference_mode(False), torch.enable_grad():
        base = training.host_base.HostBase(model, options.get("precision", "auto"), options.get("again", False), None)
        tuner.requires_grad_(True)
        for p in tuner.parameters():
            p.grad = None
        with base.loaded():
            text = training.base.TextStates(states, pooled if base.needs_sizes else None)
            out = base.predict(
                noisy, torch.tensor([100, 800]), text, sizes if base.needs_sizes else None, [(tuner, 1.0, None)]
            )
            out.float().square().mean().backward()
        assert not any("forward" in vars(module) for module in model.model.diffusion_model.modules())
    assert all(p.grad is None for p in model.model.parameters())
    return {name: p.grad.clone() for name, p in tuner.named_parameters()}


def trainable(pack, family: str = "sd1"):
    with torch.inference_mode(False):
        return randomise(pack.core.SCTuner(layout(pack, family)), 9)


def apart(found: dict, expected: dict) -> float:
    return max(relative(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_computing_again_and_other_precisions_give_the_same_gradients(pack, training, family):
    model, tuner = small_model(family), trainable(pack, family)
    expected = gradients(training, model, tuner)
    assert min(float(g.abs().max()) for g in expected.values()) > 0
    assert apart(gradients(training, model, tuner, again=True), expected) == 0
    assert apart(gradients(training, model, tuner, precision="bf16"), expected) < 0.1


@pytest.mark.parametrize(
    ("stored", "computed", "most"),
    [
        (torch.float16, torch.float32, 1e-5),
        (torch.bfloat16, torch.bfloat16, 0.1),
        (torch.float8_e4m3fn, torch.float32, 1e-5),
    ],
)
def test_weights_in_less_than_float32(pack, training, stored, computed, most):
    """The gradients of a float32 model with the same rounded weights."""
    tuner, rounded = trainable(pack), small_model()
    for p in rounded.model.diffusion_model.parameters():
        p.copy_(p.to(stored).float())
    expected = gradients(training, rounded, tuner)
    assert apart(gradients(training, small_model(dtype=stored, compute=computed), tuner), expected) < most


def quantised(model, kind: str):
    """The small model with its linear weights as a checkpoint in the host's quantised format `kind` brings them, and
    one in float32 with the same rounded weights."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    config = model.model.model_config
    config.quant_config, config.manual_cast_dtype = {"mixed_ops": True}, torch.float32
    state = dict(model.model.diffusion_model.state_dict())
    for name, layer in model.model.diffusion_model.named_modules():
        if isinstance(layer, torch.nn.Linear) and layer.in_features % 32 == 0:
            options = {} if kind == "mxfp8" else {"scale": "recalculate"}
            if kind == "int8_tensorwise":
                options = {"per_channel": True}
            weight = QuantizedTensor.from_float(layer.weight.data, QUANT_ALGOS[kind]["comfy_tensor_layout"], **options)
            layer.weight.copy_(weight.dequantize())
            del state[f"{name}.weight"]
            state |= weight.state_dict(f"{name}.weight")
            said = json.dumps({"format": kind}).encode()
            state[f"{name}.comfy_quant"] = torch.tensor(list(said), dtype=torch.uint8)
    made = config.get_model({}, "", device=torch.device("cpu"))
    missing, unexpected = made.diffusion_model.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    made.diffusion_model.requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(made, torch.device("cpu"), torch.device("cpu")), model


@pytest.mark.skipif(not hasattr(comfy.ops, "mixed_precision_ops"), reason="this host has no quantised weights")
@pytest.mark.parametrize("kind", ["float8_e4m3fn", "nvfp4", "mxfp8", "int8_tensorwise"])
def test_quantised_weights_are_trained_through_as_they_are(pack, training, kind):
    """The gradients of a float32 model with the same rounded weights; no more is kept than with that one,
    and no weight."""
    tuner, (found, plain) = trainable(pack), quantised(small_model(), kind)
    # int8 rounds what it multiplies with, too
    most = 0.1 if kind == "int8_tensorwise" else 1e-5
    assert apart(gradients(training, found, tuner), gradients(training, plain, tuner)) < most
    assert kept_by(training, found, tuner) <= 1.01 * kept_by(training, plain, tuner)


def kept_by(training, model, tuner) -> int:
    """Bytes kept for the backward pass of a step, without the tuner's weights."""
    with torch.inference_mode(False), torch.enable_grad():
        base = training.host_base.HostBase(model, "auto", False, None)
        text = training.base.TextStates(torch.randn(2, 7, TEXT_WIDTH))
        with base.loaded(), kept_bytes.counted(tuner) as found:
            kept_bytes.step(base, tuner, text)
    return found[0]


class Halves(comfy.ops.manual_cast.Linear):
    """A linear layer of another pack, whose weight lies halved in 16 bits and is made when it is used."""

    def forward_comfy_cast_weights(self, x):
        return torch.nn.functional.linear(x, self.weight.float() * 2, self.bias)


def test_layers_of_other_packs_are_trained_through_by_their_own_forward(pack, training):
    tuner, plain, found = trainable(pack), small_model(), small_model()
    for one, other in zip(plain.model.modules(), found.model.modules(), strict=True):
        if isinstance(one, torch.nn.Linear):
            halved = (one.weight.data / 2).half()
            one.weight.copy_(halved.float() * 2)
            other.__class__, other.weight = Halves, torch.nn.Parameter(halved, requires_grad=False)
            other.comfy_cast_weights = True
    assert apart(gradients(training, found, tuner), gradients(training, plain, tuner)) < 1e-5


def test_a_partially_loaded_model_with_a_lora_is_trained_through(pack, training, monkeypatch):
    """Where the GPU is too small the host leaves weights in the CPU's memory, and adds the LoRA where they are used."""
    tuner, key = trainable(pack), "diffusion_model.output_blocks.3.1.proj_in.weight"
    change = torch.randn(small_model().model.get_parameter(key).shape, generator=torch.Generator().manual_seed(4))
    models = []
    for _ in range(2):
        models.append(small_model())
        models[-1].add_patches({key: ("diff", (change,))}, 0.5)
    whole = gradients(training, models[0], tuner)
    load = comfy.model_patcher.ModelPatcher.load
    monkeypatch.setattr(
        comfy.model_patcher.ModelPatcher,
        "load",
        lambda self, *given, **told: load(self, given[0] if given else told["device_to"], lowvram_model_memory=1),
    )
    found = gradients(training, models[1], tuner)
    assert models[1].model.model_lowvram
    assert models[1].model.lowvram_patch_counter == 1
    assert apart(found, whole) < 1e-6


def test_a_lora_in_effect_is_trained_on(pack, training):
    """As a patch that the host adds to the weights: the same gradients as with the weights changed by hand."""
    tuner, key = trainable(pack), "diffusion_model.output_blocks.3.0.in_layers.2.weight"
    model = small_model()
    weight = model.model.get_parameter(key)
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)) * weight.std()
    patched = model.clone()
    patched.add_patches({key: ("diff", (change,))}, 0.5)
    plain, found = gradients(training, model, tuner), gradients(training, patched, tuner)
    comfy.model_management.unload_all_models()
    by_hand = small_model()
    by_hand.model.get_parameter(key).add_(0.5 * change)
    assert apart(found, gradients(training, by_hand, tuner)) < 1e-5
    assert apart(found, plain) > 1e-3


def test_another_tuner_in_effect_is_one_sum_with_the_trained_one(pack, training):
    """Both read the unedited skip, in whatever order."""
    tuner, other = trainable(pack), sc_tuner(pack)
    found = gradients(training, apply_sc(pack, small_model(), other, 0.7), tuner)
    model = small_model()
    original = training.host_base.HostBase.predict

    def both(self, noisy, timesteps, text, sizes, edits=()):
        return original(self, noisy, timesteps, text, sizes, [(other.tuner, 0.7, None), *edits])

    training.host_base.HostBase.predict = both
    try:
        expected = gradients(training, model, tuner)
    finally:
        training.host_base.HostBase.predict = original
    assert apart(found, expected) < 1e-5
    assert apart(found, gradients(training, model, tuner)) > 1e-3


def test_another_tuner_in_effect_for_a_part_of_the_schedule_edits_the_rows_of_that_part(pack, training):
    """Rows at timesteps 100 and 800: each as it is alone, whatever row comes first."""
    tuner, text = trainable(pack), torch.randn(2, 7, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    base = training.host_base.HostBase(apply_sc(pack, small_model(), sc_tuner(pack), end=0.5), "auto", False, None)
    timesteps = torch.tensor([100, 800])

    def said(rows: list[int]) -> torch.Tensor:
        states = training.base.TextStates(text[rows])
        return base.predict(noisy[rows], timesteps[rows], states, None, [(tuner, 1.0, None)]).detach()

    with torch.inference_mode(False), base.loaded():
        alone = torch.cat([said([0]), said([1])])
        assert relative(said([0, 1]), alone) < 1e-4
        assert relative(said([1, 0]), alone[[1, 0]]) < 1e-4


def test_layers_cast_whatever_the_host_offloads_meanwhile(training):
    """In another precision than the weights': the host offloads layers, and takes them back, when it loads a VAE."""
    unet = small_model().model.diffusion_model
    back, gone = [layer for layer in unet.modules() if getattr(layer, "comfy_cast_weights", None) is False][:2]

    def offload(layer: torch.nn.Module) -> None:  # as ModelPatcher.load does
        layer.prev_comfy_cast_weights, layer.comfy_cast_weights = layer.comfy_cast_weights, True

    offload(back)
    with training.frozen_layers.trained_through(unet, False, True):
        comfy.model_patcher.wipe_lowvram_weight(back)
        offload(gone)
        assert back.comfy_cast_weights
        assert gone.comfy_cast_weights
    assert not back.comfy_cast_weights
    assert gone.comfy_cast_weights  # still offloaded
    comfy.model_patcher.wipe_lowvram_weight(gone)
    assert not any(getattr(layer, "comfy_cast_weights", False) for layer in unet.modules())


def test_convolutions_of_seamless_pictures_have_the_gradient_of_their_own_padding(training):
    """Around both sides by `padding_mode`, and around one by a forward of the pack's own, put on the layer."""

    def across(x, weight, bias):
        return F.conv2d(F.pad(x, (1, 1, 0, 0), "circular"), weight, bias, padding=(1, 0))

    with torch.inference_mode(False):
        unet = small_model().model.diffusion_model.requires_grad_(False)
        conv = unet.out[2]
        x = torch.randn(1, conv.in_channels, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        plain = torch.autograd.grad(conv(x).square().sum(), x)[0]
        for name, own in (("padding_mode", "circular"), ("_conv_forward", across)):
            setattr(conv, name, own)
            expected = torch.autograd.grad(conv(x).square().sum(), x)[0]
            with training.frozen_layers.trained_through(unet, False, False):
                found = torch.autograd.grad(conv(x).square().sum(), x)[0]
            assert relative(found, expected) < 1e-6
            assert relative(found, plain) > 1e-2


def test_zero_terminal_snr_and_velocity_are_seen(training):
    import comfy_extras.nodes_model_advanced as advanced

    model = small_model()
    assert training.host_base.HostBase(model, "auto", False, None).prediction == "epsilon"
    (changed,) = outputs_of(advanced.ModelSamplingDiscrete, model, "v_prediction", True)
    base = training.host_base.HostBase(changed, "auto", False, None)
    assert base.prediction == "v_prediction"
    plain = training.host_base.HostBase(model, "auto", False, None).alphas_cumprod
    expected = sys.modules[training.running.Objective.__module__].with_zero_terminal_snr(plain)
    assert base.alphas_cumprod[-1] == 0 < base.alphas_cumprod[-2]  # 2e-7, less than what stands for 0 at the end
    torch.testing.assert_close(base.alphas_cumprod, expected.float(), rtol=1e-3, atol=0)
    continuous = outputs_of(advanced.ModelSamplingContinuousEDM, model, "edm", 120.0, 0.002)[0]
    few = outputs_of(advanced.ModelSamplingDiscrete, model, "lcm", False)[0]  # 50 timesteps, told by other numbers
    for other in (continuous, few):
        with pytest.raises(Exception, match="predicts noise or velocity"):
            training.host_base.HostBase(other, "auto", False, None)


def test_an_inpainting_model_is_trained_on_an_empty_mask(train):
    _, _, losses, _ = train(small_model(in_channels=9), latents=latents(2), positive=[prompt(1)], steps=2)
    assert len(losses["loss"]) == 2
