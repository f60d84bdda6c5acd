"""Beside the host's other features: FreeU, Deep Shrink, LoRA, areas, dtypes, other U-Nets and samplers, tiles."""

from __future__ import annotations

import inspect

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_model_downscale as downscale
import pytest
import torch
from comfy.ldm.flux.model import FluxParams
from small_model import noise_of, picture, prompt, relative, sample, small_controlnet, small_model
from small_tuners import EncodeCount, apply_csc, apply_sc, control_prompts, csc_tuner, sc_tuner
from train_on_model_widgets import latents


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def base(model):
    with torch.inference_mode():
        return sample(model)


def host_node(module, name: str, **arguments):
    """Run a node of the host, whichever schema this version writes it in."""
    node = getattr(module, name)
    if hasattr(node, "execute"):
        return node.execute(**arguments).args[0]
    return getattr(node(), node.FUNCTION)(**arguments)[0]


def freeu(model):
    return host_node(freelunch, "FreeU_V2", model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)


def test_freeu_before_between_and_after(pack, model, base):
    """FreeU is heard where it stands against the first SCEdit patch; the order of the tuners still does not matter."""
    a, b = sc_tuner(pack, 21), sc_tuner(pack, 22)

    def chain(*steps):
        m = model
        for step in steps:
            m = freeu(m) if step is None else apply_sc(pack, m, step, 0.5)
        return sample(m)

    before, after = chain(None, a, b), chain(a, b, None)
    assert relative(before, base) > 0.02
    assert relative(after, before) > 1e-3
    assert relative(chain(None, b, a), before) < 1e-6
    assert relative(chain(b, a, None), after) < 1e-6
    assert relative(chain(a, None, b), after) < 1e-6  # between counts as after the first
    assert relative(chain(b, None, a), after) < 1e-6


def test_freeu_with_a_control(pack, model):
    """Controls come after the model's own patches, so FreeU is heard first."""
    control = csc_tuner(pack)
    found = sample(freeu(model), *control_prompts(control))
    assert relative(found, sample(apply_csc(pack, freeu(model), control))) < 1e-6


@pytest.mark.parametrize("after_skip", [True, False])
def test_deep_shrink_changes_the_size_of_skips(pack, model, after_skip):
    options = {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.5}
    options |= {"downscale_after_skip": after_skip, "downscale_method": "bicubic", "upscale_method": "bicubic"}
    shrunk = host_node(downscale, "PatchModelAddDownscale", model=model, **options)
    base, control = sample(shrunk), csc_tuner(pack)
    by_control = sample(shrunk, *control_prompts(control))
    by_model = sample(apply_csc(pack, apply_sc(pack, shrunk, sc_tuner(pack)), control))
    for found in (by_control, by_model):
        assert found.isfinite().all()
        assert relative(found, base) > 0.02


def test_a_lora_on_the_model(pack, model, base):
    """A weight patch of the host and a tuner are both heard."""
    weight = model.model.diffusion_model.out[2].weight
    patches = {"diffusion_model.out.2.weight": ("diff", (torch.full_like(weight, 0.01),))}
    with_lora = model.clone()
    with_lora.add_patches(patches, 1.0)
    lora = sample(with_lora)
    assert relative(lora, base) > 0.01
    assert relative(sample(apply_sc(pack, with_lora, sc_tuner(pack))), lora) > 0.02
    assert torch.equal(sample(model), base)


def test_area_conditioning(pack, model):
    """A control on one area only, half of the picture wide, and areas that take turns inside a step."""
    control, noise = csc_tuner(pack), noise_of(1, 16, 32)
    area = {"area": (16, 16, 0, 16), "strength": 1.0, "set_area_to_bounds": False}
    regional, _ = control_prompts(control, positive=prompt(7, **area))
    base = sample(model, prompt(1) + prompt(7, **area), noise=noise)
    whole, _ = control_prompts(control, positive=prompt(1))
    with EncodeCount(control) as encodings:
        found = sample(model, prompt(1) + regional, noise=noise)
        assert encodings.count == 1
        assert relative(found, base) > 0.01
        assert relative(found[..., :8], base[..., :8]) < relative(found[..., 16:], base[..., 16:])
        sample(model, whole + regional, noise=noise)
        assert encodings.count == 3  # the picture's and the area's size, each once
        by_model = apply_csc(pack, model, control)
        assert sample(by_model, prompt(1) + prompt(7, **area), noise=noise).isfinite().all()
        assert encodings.count == 5


TILE = 16  # in latent pixels
TALL = 3  # tiles one below the other


class Tiler:
    """Cuts a latent of the width of a tile into tiles, `at_once` of them in a forward, and speaks to controls and
    patches as the pack Tiled Diffusion does.

    It is the model's function wrapper and marks the model's options.  Its batch is tile by tile, each tile with all
    rows of the whole.  It keeps the host from asking controls, then gives every control of the chain a `cond_hint` cut
    and repeated in the same way, and asks the last one for each batch of tiles with the same `transformer_options`.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once

    def applied_to(self, model):
        tiled = model.clone()
        tiled.set_model_unet_function_wrapper(self)
        tiled.model_options["tiled_diffusion"] = True
        return tiled

    @staticmethod
    def hold_back(positive) -> None:
        """What the pack does to the control of a prompt before the host asks it."""
        control = positive[0][1]["control"]
        control.get_control_orig = control.get_control
        control.get_control = lambda *_: control

    def __call__(self, apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        tops = range(0, x.shape[2], TILE)
        out = []
        for batch in (tops[i : i + self.at_once] for i in range(0, len(tops), self.at_once)):
            tiles = torch.cat([x[:, :, top : top + TILE] for top in batch])
            inner = {k: torch.cat([v] * len(batch)) if isinstance(v, torch.Tensor) else v for k, v in c.items()}
            if "control" in c:
                self.give_hints(c["control"], x, batch)
                inner["control"] = c["control"].get_control_orig(
                    tiles, t.repeat(len(batch)), inner, len(args["cond_or_uncond"]), c["transformer_options"]
                )
            out += apply_model(tiles, t.repeat(len(batch)), **inner).chunk(len(batch))
        return torch.cat(out, dim=2)

    @staticmethod
    def give_hints(control, x, batch) -> None:
        while control is not None:
            size = x.shape[3] * control.compression_ratio, x.shape[2] * control.compression_ratio
            hint = comfy.utils.common_upscale(control.cond_hint_original, *size, control.upscale_algorithm, "center")
            hint = control.preprocess_image(hint).repeat(x.shape[0] // hint.shape[0], 1, 1, 1)
            edge = TILE * control.compression_ratio
            tops = [top * control.compression_ratio for top in batch]
            control.cond_hint = torch.cat([hint[:, :, top : top + edge] for top in tops])
            control = control.previous_controlnet


def parts(tensor, dim: int):
    """The tiles of a latent or of a picture."""
    return tensor.chunk(TALL, dim)


@pytest.mark.parametrize(("at_once", "channels"), [(1, 3), (2, 3), (3, 3), (2, 4)])
def test_controls_under_tiles_inside_a_forward(pack, model, at_once, channels):
    """Tiles do not overlap: each is what a run of its own gives with its part of the hints, picture by picture."""
    noise = noise_of(2, TALL * TILE, TILE)
    first, second = (picture(2, TALL * TILE * 8, TILE * 8, channels, seed=seed) for seed in (5, 6))
    control, other = csc_tuner(pack, 31), csc_tuner(pack, 32)

    def prompts(one, two):
        positive, negative = control_prompts(control, one, 0.7)
        return control_prompts(other, two, 0.6, positive=positive, negative=negative)

    positive, negative = prompts(first, second)
    Tiler.hold_back(positive)
    found = sample(Tiler(at_once).applied_to(model), positive, negative, noise=noise, steps=2)
    for tile, part, one, two in zip(parts(found, 2), parts(noise, 2), parts(first, 1), parts(second, 1), strict=True):
        alone = sample(model, *prompts(one, two), noise=part, steps=2)
        assert relative(alone, sample(model, noise=part, steps=2)) > 0.02
        assert relative(tile, alone) < 1e-5


def test_a_control_is_in_the_patches_once(pack, model):
    """Asked again with the same options, it takes the place of what it put in before, and leaves others alone."""
    control, other = csc_tuner(pack, 31), csc_tuner(pack, 32)
    for each in (control, other):
        each.set_cond_hint(picture().movedim(-1, 1))
        each.pre_run(model.model, lambda percent: 1.0 - percent)
    foreign = object()
    options = {"patches": {"output_block_patch": [foreign]}}
    for each in (control, other, control, control):
        each.get_control(noise_of(), torch.ones(1), {}, 1, options)
    listed = options["patches"]["output_block_patch"]
    assert listed[0] is foreign
    assert [patch.run for patch in listed[1:]] == [other.run, control.run]
    assert options["wrappers"]["diffusion_model"] == {"scedit": [pack.forward.edit_forward]}


@pytest.mark.parametrize("side", ["both", "positive", "negative"])
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_sides_and_masks_under_tiles_inside_a_forward(pack, model, side, at_once):
    """Each tile is what a run of its own gives, with the picture's mask pressed into it."""
    noise, masks = noise_of(2, TALL * TILE, TILE), torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(8))
    edited = apply_sc(pack, model, sc_tuner(pack), side=side, mask=masks)
    found = sample(Tiler(at_once).applied_to(edited), noise=noise, steps=2)
    for tile, part in zip(parts(found, 2), parts(noise, 2), strict=True):
        alone = sample(edited, noise=part, steps=2)
        assert relative(alone, sample(model, noise=part, steps=2)) > 0.02
        assert relative(tile, alone) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "compute"),
    [
        (torch.float16, None),
        (torch.bfloat16, None),
        (torch.float16, torch.float32),
        (torch.float8_e4m3fn, torch.float16),
        (torch.float8_e4m3fn, torch.float32),
    ],
    ids=["fp16", "bf16", "fp16-cast", "fp8-in-fp16", "fp8-in-fp32"],
)
def test_dtypes_of_the_unet(pack, dtype, compute):
    """Latents are float32 in every case; the tuner follows the dtype that the skips have."""
    model = small_model(dtype=dtype, compute=compute)
    base, control = sample(model), csc_tuner(pack)
    edited = apply_sc(pack, model, sc_tuner(pack), 0.5)
    found = sample(edited, *control_prompts(control, strength=0.5))
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert relative(found, base) > 0.02
    if dtype == torch.float16:  # near what float32 gives with the same weights
        exact = apply_sc(pack, small_model(), sc_tuner(pack), 0.5)
        assert relative(found, sample(exact, *control_prompts(control, strength=0.5))) < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tuner_files(pack, model, dtype):
    tuner = sc_tuner(pack)
    expected = sample(apply_sc(pack, model, tuner))
    half = pack.managed.ManagedTuner(sc_tuner(pack).tuner.to(dtype), "half.safetensors", "half")
    assert relative(sample(apply_sc(pack, model, half)), expected) < (1e-2 if dtype == torch.float16 else 5e-2)


def test_sdxl_shaped_model(pack):
    model = small_model("sdxl")
    options = {"family": "sdxl"}
    base = sample(model, **options)
    tuner, control = sc_tuner(pack, family="sdxl"), csc_tuner(pack, family="sdxl", hint_ratio=2)
    assert len(tuner.tuner.layout) == 9
    prompts = control_prompts(control, family="sdxl")
    found = sample(apply_sc(pack, model, tuner), *prompts, **options)
    assert relative(found, base) > 0.02
    by_model = apply_csc(pack, apply_sc(pack, model, tuner), control)
    assert relative(sample(by_model, **options), found) < 1e-6


def test_inpainting_model(pack):
    """9 input channels: latent, mask and masked picture."""
    model = small_model(in_channels=9)
    extras = {"concat_latent_image": torch.zeros(1, 4, 16, 16), "concat_mask": torch.ones(1, 1, 128, 128)}
    positive, negative = prompt(1, **extras), prompt(2, **extras)
    base, control = sample(model, positive, negative), csc_tuner(pack)
    prompts = control_prompts(control, positive=positive, negative=negative)
    assert relative(sample(model, *prompts), base) > 0.02
    assert relative(sample(apply_sc(pack, model, sc_tuner(pack)), positive, negative), base) > 0.02


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "heun", "uni_pc", "ddim", "euler_ancestral"])
def test_samplers(pack, model, sampler):
    options = {"sampler": sampler, "steps": 4}
    base = sample(model, **options)
    found = sample(apply_sc(pack, model, sc_tuner(pack)), *control_prompts(csc_tuner(pack)), **options)
    assert found.isfinite().all()
    assert relative(found, base) > 0.02


def dit_model():
    """A MODEL of the host without output blocks: a Flux of one block of each kind."""
    config = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 1280}
    config |= {"context_in_dim": 32, "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1}
    config |= {"depth_single_blocks": 1, "axes_dim": [8, 8, 8], "theta": 10000, "qkv_bias": True}
    config |= {"guidance_embed": False, "dtype": torch.float32}
    if "txt_ids_dims" in inspect.signature(FluxParams).parameters:  # newer hosts
        config["txt_ids_dims"] = []
    flux = comfy.supported_models.FluxSchnell(config)
    model = flux.get_model({}, "", device=torch.device("cpu"))
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def test_a_model_without_output_blocks_is_refused(pack, train):
    model = dit_model()
    for refused in (
        lambda: train(model, latents=latents(1), positive=[prompt(1)]),
        lambda: apply_sc(pack, model, sc_tuner(pack)),
        lambda: apply_csc(pack, model, csc_tuner(pack)),
        lambda: sample(model, *control_prompts(csc_tuner(pack), family="sdxl"), noise=torch.zeros(1, 16, 16, 16)),
    ):
        with pytest.raises(pack.core.LayoutError, match=r"expected a U-Net \(SD 1.5.*found flux;.*load a U-Net"):
            refused()


def test_a_tuner_of_another_family_is_refused(pack, model):
    for refused in (
        lambda: apply_sc(pack, model, sc_tuner(pack, family="sdxl")),
        lambda: apply_csc(pack, model, csc_tuner(pack, family="sdxl")),
        lambda: sample(model, *control_prompts(csc_tuner(pack, family="sdxl"))),
    ):
        with pytest.raises(pack.core.LayoutError, match=r"31.safet|21.safet") as refusal:
            refused()
        assert "expected a tuner for" in str(refusal.value)
        assert "choose a tuner that was trained for this base model" in str(refusal.value)


def test_another_controlnet_is_refused_on_the_model_route(pack, model):
    with pytest.raises(pack.core.SCEditError, match="expected a CSC-Tuner from Load CSC-Tuner, found a ControlNet"):
        apply_csc(pack, model, small_controlnet(), picture())
