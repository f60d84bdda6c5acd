"""Distil a ControlNet: a CONTROL_NET of the graph teaches a CSC-Tuner, on the MODEL of the graph."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...scedit_core import SCEditError
from ..host.control import SCEditControl
from .given_paths import contents, inside_input
from .on_model import (
    KINDS,
    OWN_HINTS,
    STYLE,
    LossMapWire,
    SCEditTrainOnModel,
    one,
    single,
    sources_of,
    train_here,
)
from .page import shown_on_page
from .running import Sources, Teaching
from .teacher import check_kind

_DEFAULT = -1  # of a phase
_MADE = tuple(kind for kind in KINDS if kind not in (STYLE, OWN_HINTS, "completion"))  # conditions of this pack
_OWN = ("model", "hints", "kind")  # inputs of Train SCEdit on Model that are others here, or none
# What is said otherwise of those that are the same.
_SAID = {
    "steps": "Updates of the tuner. With more of them it comes nearer to the ControlNet, then learns from the "
    "pictures.",
    "positive": "The captions of the latents in their order, from CLIP Text Encode: one for each picture, or one for "
    "all. Without captions the tuner learns from the ControlNet alone.",
    "clip": "Encodes the captions of a folder, and the empty caption; needed where no captions are connected.",
    "learning_rate": "How far an update goes: a higher rate learns faster, too high a one breaks the pictures. 0.0002 "
    "to 0.001 for adamw, 0.0001 for adafactor and came, 0.001 for schedulefree_adamw, 1 for prodigy.",
    "ratio": "Size of the tuner: 1 as the authors have it. More takes more memory and makes a larger file.",
    "kernel": "Kernel of the hint convolutions: 1 is small, 3 follows fine hints better.",
}
_DEFAULTS = {"name": "my_control", "steps": 1000, "learning_rate": 3e-4}


class SCEditDistillControlNet(io.ComfyNode):
    """MODEL, CONTROL_NET, pictures and hints -> CONTROL_NET, and the file in models/scedit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        shared = [each for each in SCEditTrainOnModel.define_schema().inputs if each.id not in _OWN]
        for each in shared:
            each.tooltip = _SAID.get(each.id, each.tooltip)
            each.default = _DEFAULTS.get(each.id, getattr(each, "default", None))
        pictures, widgets = shared[:2], shared[2:]
        after_name = 1 + [each.id for each in widgets].index("name")
        after_steps = 1 + [each.id for each in widgets].index("steps")
        return io.Schema(
            node_id="SCEditDistillControlNet",
            display_name="Distil a ControlNet (SCEdit)",
            category="SCEdit/training",
            description="Turns a ControlNet that you have into a small, fast control: a CSC-Tuner learns what the "
            "ControlNet does to the model of the graph, from any pictures and hints of your preprocessor. The tuner "
            "goes to models/scedit; checkpoints, previews beside the ControlNet's and a report to output/scedit. "
            "Cancel saves a checkpoint first, and queueing again resumes.",
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that the ControlNet was made for: SD 1.5, SD 2.1 or SDXL."),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="The ControlNet to learn from, at strength 1: any that adds to the skips, a union after "
                    "Set Union ControlNet Type, or a control LoRA.",
                ),
                io.Image.Input(
                    "hints",
                    optional=True,
                    tooltip="One hint for each picture, in the same order, from the ControlNet's own "
                    "preprocessor. Leave it open if condition names one of this pack's.",
                ),
                *pictures,
                *widgets[:after_name],
                io.String.Input(
                    "condition",
                    default="custom",
                    tooltip="What the hints show, such as lineart or openpose. It is written into the tuner's file. "
                    "If no hints are connected, they are made from the pictures of the folder: canny, soft_edge, "
                    "depth, pose, segmentation or color_palette.",
                ),
                *widgets[after_name:after_steps],
                io.Int.Input(
                    "residuals",
                    default=_DEFAULT,
                    min=_DEFAULT,
                    max=1_000_000,
                    tooltip="First updates, in which the tuner learns what the ControlNet adds to each skip: cheap, "
                    "and captions do not matter. -1: a quarter of the steps with captions, half of them without.",
                ),
                io.Int.Input(
                    "predictions",
                    default=_DEFAULT,
                    min=_DEFAULT,
                    max=1_000_000,
                    tooltip="The next updates, in which it learns what the model predicts with the "
                    "ControlNet; in the rest it learns from the pictures. -1: none with captions, all the rest "
                    "without.",
                ),
                *widgets[after_steps:],
            ],
            outputs=[
                io.ControlNet.Output(
                    "student",
                    display_name="CONTROL_NET",
                    tooltip="The control, for Apply ControlNet or Apply CSC-Tuner.",
                ),
                LossMapWire.Output("loss_map", display_name="loss_map", tooltip="The losses, for Plot Loss Graph."),
                io.Int.Output("steps_done", display_name="steps", tooltip="Updates that the tuner has had."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder=None, **_widgets) -> str:
        """Changes with the pictures of the folder, so that new ones are trained on."""
        return contents(inside_input(one(folder) or ""))

    @classmethod
    def execute(cls, model, control_net, name, steps, **widgets: Any) -> io.NodeOutput:
        hidden = cls.hidden
        file = _file_of(getattr(hidden, "prompt", None), getattr(hidden, "unique_id", None))
        with shown_on_page(cls, one(name), one(widgets.get("resume", True))) as page:
            wired = single({"model": model, "control": control_net, "name": name, "steps": steps})
            given, control = single(widgets), wired.pop("control")
            sources = sources_of(wired.pop("model"), given)
            sources.teaching = Teaching(
                control,
                file or type(control).__name__,
                *(None if given[phase] == _DEFAULT else given[phase] for phase in ("residuals", "predictions")),
            )
            check_kind(control)
            kind = _kind(given["condition"], sources)
            tuner, losses = train_here(page, **wired, kind=kind, sources=sources, given=given)
        saved = {"text": [f"Saved {tuner.source}"]}
        return io.NodeOutput(SCEditControl(tuner), {"loss": losses}, page.step, ui=saved)


def _kind(condition: str, sources: Sources) -> str:
    """Whose hints: those that are connected, or of which condition they are made.  Raises SCEditError for neither."""
    if sources.hints is not None:
        return OWN_HINTS
    if condition not in _MADE:
        raise SCEditError(
            f"hints: expected hints for the condition {condition[:40]}, found none; connect those of the ControlNet's "
            f"preprocessor, or name one of {', '.join(_MADE)} in condition"
        )
    return condition


def _file_of(prompt: dict | None, node: str | None) -> str | None:
    """The name of the file that the ControlNet was loaded from, where the graph says it."""
    for _ in range(100):  # nodes between the loader and this one
        inputs = (prompt or {}).get(node, {}).get("inputs", {})
        if isinstance(inputs.get("control_net_name"), str):
            return inputs["control_net_name"]
        link = inputs.get("control_net")
        if not isinstance(link, list) or not link:
            return None
        node = str(link[0])
    return None
