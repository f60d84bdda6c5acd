"""Controllable SC-Tuners: load one as CONTROL_NET, or put it on a model together with its hint image."""

from __future__ import annotations

from comfy_api.latest import io

from ..scedit_core import CSCTuner, SCEditError, load_tuner
from . import folders
from .host.control import SCEditControl
from .host.hints import RESIZE_MODES, Hint
from .host.managed import ManagedTuner
from .host.patch import applied
from .wires import TunerLoader, edit_inputs


class SCEditLoadCSCTuner(TunerLoader):
    """File -> CONTROL_NET."""

    keys = (folders.KEY, "controlnet")

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditLoadCSCTuner",
            display_name="Load CSC-Tuner (SCEdit control)",
            category="SCEdit",
            description="Loads a Controllable SC-Tuner as a ControlNet, for the Apply ControlNet nodes or Apply "
            "CSC-Tuner. Reads models/scedit and models/controlnet; SCEPTER folders load as they were downloaded.",
            inputs=[
                io.Combo.Input(
                    "tuner_name",
                    options=folders.names(*cls.keys),
                    tooltip="The control tuner's file in models/scedit or models/controlnet. Press R after adding one.",
                )
            ],
            outputs=[
                io.ControlNet.Output(display_name="CONTROL_NET", tooltip="For Apply ControlNet or Apply CSC-Tuner.")
            ],
        )

    @classmethod
    def execute(cls, tuner_name: str) -> io.NodeOutput:
        path = folders.path_of(tuner_name, *cls.keys)
        tuner = load_tuner(path)
        if not isinstance(tuner, CSCTuner):
            raise SCEditError(
                f"{tuner_name}: expected a control tuner (CSC-Tuner), found an SC-Tuner; load it with Load SC-Tuner"
            )
        return io.NodeOutput(SCEditControl(ManagedTuner(tuner, tuner_name, path)))


class SCEditApplyCSCTuner(io.ComfyNode):
    """MODEL, CONTROL_NET, IMAGE -> MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditApplyCSCTuner",
            display_name="Apply CSC-Tuner (to model)",
            category="SCEdit",
            description="Makes a model follow a hint image, for the positive and the negative prompt in one pass. Use "
            "Apply ControlNet instead where only one prompt shall follow it, and for tiled sampling.",
            inputs=[
                io.Model.Input("model", tooltip="The model to edit; its U-Net must be of the tuner's family."),
                io.ControlNet.Input("control_net", tooltip="From Load CSC-Tuner; other ControlNets do not fit."),
                io.Image.Input(
                    "image",
                    tooltip="The hint: edges, depth, pose or what the tuner was trained on. A batch of hints goes with "
                    "a batch of pictures or with the frames of a video.",
                ),
                *edit_inputs(
                    io.Combo.Input(
                        "resize",
                        options=list(RESIZE_MODES),
                        default=RESIZE_MODES[1],
                        tooltip="How a hint of other proportions is fitted to the picture: stretch it, crop its centre "
                        "(as Apply ControlNet does), or pad it with black (with white for controls of dark lines).",
                    )
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model with the control in it.")],
        )

    @classmethod
    def execute(
        cls, model, control_net, image, strength, start_percent, end_percent, resize, block_weights=None, mask=None
    ) -> io.NodeOutput:
        if not isinstance(control_net, SCEditControl):
            raise SCEditError(
                f"control_net: expected a CSC-Tuner from Load CSC-Tuner, found a {type(control_net).__name__}; use the "
                "Apply ControlNet nodes for it"
            )
        hint = Hint(control_net.tuner, image.movedim(-1, 1), resize)
        percents = start_percent, end_percent
        return io.NodeOutput(applied(model, control_net.tuner, strength, percents, block_weights, mask, hint=hint))
