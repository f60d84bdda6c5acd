"""ComfyUI's own Train LoRA on a MODEL with tuners: it trains with the loss that the formula gives."""

from __future__ import annotations

import copy
import inspect

import comfy_extras.nodes_train as nodes_train
import pytest
import torch
from small_model import noise_of, picture, prompt, small_model
from small_tuners import apply_csc, apply_sc, control_prompts, csc_tuner, sc_tuner


def losses(model, positive=None, dtype: str = "fp32", images: int = 1) -> list[float]:
    """Those of two steps of Train LoRA, as a workflow runs it: within inference mode."""
    node = nodes_train.TrainLoraNode
    run = node.execute if hasattr(node, "execute") else node().train
    values = {"model": model, "latents": {"samples": noise_of(images)}, "positive": positive or prompt(1)}
    values |= {"batch_size": 1, "steps": 2, "grad_accumulation_steps": 1, "learning_rate": 1e-3, "rank": 2, "seed": 3}
    values |= {"optimizer": "SGD", "loss_function": "MSE", "training_dtype": dtype, "lora_dtype": "fp32"}
    values |= {"quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": False}
    values |= {"checkpoint_depth": 1, "offloading": False, "existing_lora": "[None]", "bucket_mode": False}
    values |= {"bypass_mode": False}
    takes = inspect.signature(run).parameters
    if hasattr(node, "execute"):  # newer hosts hand all inputs over as lists
        found = run(**{name: [value] for name, value in values.items() if name in takes}).args
    else:
        found = run(**{name: value for name, value in values.items() if name in takes})
    loss_map = next(each for each in found if isinstance(each, dict) and "loss" in each)
    return [float(loss) for loss in loss_map["loss"]]


def trainable():
    """A small MODEL whose weights may be saved for a backward pass."""
    with torch.inference_mode(False):
        return small_model()


def by_the_formula(pack, model, *edits):
    """A clone of the MODEL whose skips are edited tuner by tuner."""

    def patch(h, hsp, options):
        return h, pack.core.editing.edit_skip(options["block"][1], hsp, edits)

    clone = model.clone()
    clone.set_model_output_block_patch(patch)
    return clone


def trained(*arguments, **named) -> list[float]:
    torch.manual_seed(0)  # where the host's training takes its noise levels from
    return losses(*arguments, **named)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_model_with_tuners_trains_with_the_loss_of_the_formula(pack, dtype):
    model, tuner, other = trainable(), sc_tuner(pack, 21), sc_tuner(pack, 22, ratio=0.5)
    edited = apply_sc(pack, apply_sc(pack, model, tuner, 0.7), other, -0.4)
    with torch.inference_mode(False):  # the plain formula's weights may be saved too; ours are as nodes make them
        edits = [pack.core.editing.Edit(copy.deepcopy(t.tuner), s) for t, s in ((tuner, 0.7), (other, -0.4))]
    expected = trained(by_the_formula(pack, model, *edits), dtype=dtype)
    found = trained(edited, dtype=dtype)
    assert found == pytest.approx(expected, rel=1e-5 if dtype == "fp32" else 2e-2)
    assert found == trained(edited, dtype=dtype)  # and once more, with what the first has left
    assert abs(found[0] / trained(model, dtype=dtype)[0] - 1) > 1e-3


def test_a_control_on_the_model(pack):
    model, control, image = trainable(), csc_tuner(pack), picture()
    with torch.inference_mode(False), torch.no_grad():
        tuner = copy.deepcopy(control.tuner.tuner)
        features = [g and g.clone() if g is None else g.clone() for g in tuner.encode_hint(image.movedim(-1, 1))]
    expected = trained(by_the_formula(pack, model, pack.core.editing.Edit(tuner, 0.6, features)))
    assert trained(apply_csc(pack, model, control, image, 0.6)) == pytest.approx(expected, rel=1e-5)


def test_a_control_on_the_prompt(pack):
    model, control, image = trainable(), csc_tuner(pack), picture()
    positive, _ = control_prompts(control, image, 0.6)
    assert trained(model, positive) == pytest.approx(trained(apply_csc(pack, model, control, image, 0.6)), rel=1e-5)
