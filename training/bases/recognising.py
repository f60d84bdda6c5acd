"""Which family a single checkpoint file belongs to and what it predicts, told from names, shapes and metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scedit_core.errors import BaseModelError

from .checkpoint_header import CLIP, OPEN_CLIP, SGM_OPEN_CLIP, UNET, CheckpointHeader

VAE = "first_stage_model."
SDXL_CLIP = "conditioner.embedders.0.transformer."
SDXL_OPEN_CLIP = "conditioner.embedders.1.model."
SD15, SD2, SDXL = "sd15", "sd2", "sdxl"  # the folders of configs/

# What other files are told by, most telling first: pattern, what it is, what to do.
_FULL = "choose a full SD 1.5, SD 2.x or SDXL checkpoint"
_FOREIGN = (
    (r"\blora_|hada_w1|lokr_w1|oft_blocks", "a LoRA", "choose the base model it is for"),
    (r"lsc_identity|^tuners\.\d+\.|\.sc_tuners?\.|scetuner_", "a tuner", "name it in tuner.start_from instead"),
    (r"^control_model\.|input_hint_block|controlnet_|^zero_convs", "a ControlNet", _FULL),
    (r"double_blocks\.\d+\.", "a Flux-like transformer, which has no skips to edit", _FULL),
    (r"joint_blocks\.\d+\.", "Stable Diffusion 3, a transformer that has no skips to edit", _FULL),
    (r"motion_modules|time_stack|temporal_", "a video model", _FULL),
    (r"^emb_params$|^string_to_param|^clip_[gl]$", "a textual inversion", _FULL),
    (r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(down|up|mid|conv_in)", "a VAE alone", _FULL),
    (r"^(down_blocks|up_blocks|mid_block)\.", "a U-Net of a diffusers folder", "give the whole folder"),
    (r"^(input_blocks|output_blocks)\.0\.", "a U-Net without VAE and text encoder", _FULL),
    (r"^(text_model|transformer\.(text_model|resblocks))\.", "a text encoder alone", _FULL),
)
_INPUTS = {
    9: "an inpainting U-Net of 9 input channels; train on the model it was made from, whose tuners work on it too",
    8: "an editing U-Net of 8 input channels; train on the model it was made from",
    5: "a depth U-Net of 5 input channels; train on the model it was made from",
    7: f"an upscaler's U-Net of 7 input channels; {_FULL}",
}
_V_BIAS = 0.09  # see `prediction_of`


@dataclass(frozen=True)
class Recognised:
    """A family's name, and where the file keeps its text encoder(s), first and second."""

    family: str
    text: tuple[str, ...]


def recognise(header: CheckpointHeader) -> Recognised:
    """The family of a full checkpoint.  Raises BaseModelError, in one sentence, for anything else."""
    shapes = header.shapes
    first = shapes.get(UNET + "input_blocks.0.0.weight")
    if first is None or len(first) != 4:
        raise _unlike(header, *_foreign(shapes))
    if any("time_stack" in name or "motion_modules" in name for name in shapes):
        raise _unlike(header, "a video model", _FULL)
    if first[1] != 4:
        found, advice = _INPUTS.get(first[1], f"one of {first[1]} input channels; {_FULL}").split("; ")
        raise _unlike(header, found, advice)
    if any(name.endswith(("scale_weight", "scaled_fp8", ".absmax", ".weight_scale")) for name in shapes):
        raise _unlike(header, "a quantised one with scales beside its weights", "choose the fp16 or bf16 version")
    if "edm_mean" in shapes or "edm_vpred.sigma_max" in shapes:
        raise _unlike(header, "one trained on continuous noise levels (EDM)", "choose one that predicts epsilon or v")
    return _by_text_encoders(header)


def _by_text_encoders(header: CheckpointHeader) -> Recognised:
    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in header.shapes)

    told_sizes = UNET + "label_emb.0.0.weight" in header.shapes
    if not has(VAE + "decoder.") or not has(VAE + "encoder."):
        raise _unlike(header, "one without a VAE", "choose the version that has one inside")
    if has(SDXL_CLIP) and has(SDXL_OPEN_CLIP) and told_sizes:
        return Recognised(SDXL, (SDXL_CLIP, SDXL_OPEN_CLIP))
    if told_sizes:
        if has(SGM_OPEN_CLIP):
            raise _unlike(header, "SDXL's refiner", "choose its base model")
        found = "an image-variation model (unCLIP)" if has(OPEN_CLIP) else "SDXL without one of its text encoders"
        raise _unlike(header, found, _FULL)
    if has(OPEN_CLIP):
        return Recognised(SD2, (OPEN_CLIP,))
    if header.shapes.get(CLIP + "text_model.final_layer_norm.weight") == (1024,):
        raise _unlike(header, "SD 2.x with its text encoder under SD 1.5's names", "choose the original layout")
    if has(CLIP):
        return Recognised(SD15, (CLIP,))
    raise _unlike(header, "one without a text encoder", "choose the version that has one inside")


def prediction_of(header: CheckpointHeader, family: str) -> str:
    """What the U-Net predicts, "epsilon" or "v_prediction", as far as a file can tell.

    In this order: a tensor named `v_pred`, the ModelSpec metadata, and for SD 2.x the weights themselves: those that
    predict v have far larger biases in the last attention's first norm, as hosts of this format have found out too.
    """
    if "v_pred" in header.shapes:
        return "v_prediction"
    told = header.metadata.get("modelspec.prediction_type", "").lower()
    if told in ("v", "v_prediction", "epsilon", "eps"):
        return "v_prediction" if told.startswith("v") else "epsilon"
    return "v_prediction" if family == SD2 and _biases_of_v(header) else "epsilon"


def has_zero_terminal_snr(header: CheckpointHeader) -> bool:
    """Whether the file says that it was trained with betas rescaled to zero terminal SNR."""
    return "ztsnr" in header.shapes


def _biases_of_v(header: CheckpointHeader) -> bool:
    pattern = re.compile(re.escape(UNET) + r"output_blocks\.(\d+)\.1\.transformer_blocks\.0\.norm1\.bias")
    found = {int(m.group(1)): name for name in header.shapes if (m := pattern.fullmatch(name))}
    if not found:
        return False
    name = found[max(found)]
    return float(header.read([name])[name].float().std(correction=0)) > _V_BIAS


def _foreign(shapes: dict) -> tuple[str, str]:
    for pattern, found, advice in _FOREIGN:
        if any(re.search(pattern, name) for name in shapes):
            return found, advice
    first = next(iter(shapes), None)
    return f"one of {len(shapes)} tensors, the first {first!r:.60}" if first else "one without tensors", _FULL


def _unlike(header: CheckpointHeader, found: str, advice: str) -> BaseModelError:
    return BaseModelError(f"{header.path}: expected an SD 1.5, SD 2.x or SDXL checkpoint, found {found}; {advice}")
