"""Controllable SC-Tuners: load one as CONTROL_NET, or put it on a model together with its hint image."""

from __future__ import annotations

from comfy_api.latest import io

from ..scedit_core import CSCTuner, SCEditError, load_tuner
from . import folders
from .host.control import SCEditControl
from .host.hints import RESIZE_MODES
from .host.managed import ManagedTuner
from .host.patch import ImageHint, SkipPatch, check_fit, patched
from .wires import block_weights_input, mask_input, range_inputs, strength_input

_KEYS = (folders.KEY, "controlnet")


class SCEditLoadCSCTuner(io.ComfyNode):
    """File -> CONTROL_NET."""

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
                    options=folders.names(*_KEYS),
                    tooltip="The control tuner's file in models/scedit or models/controlnet. Press R after adding one.",
                )
            ],
            outputs=[
                io.ControlNet.Output(display_name="CONTROL_NET", tooltip="For Apply ControlNet or Apply CSC-Tuner.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, tuner_name: str | None) -> str:
        return folders.fingerprint(tuner_name, *_KEYS)

    @classmethod
    def validate_inputs(cls, tuner_name: str | None) -> bool:
        return True  # a missing file is told by execute: of a refusal here the page shows no sentence

    @classmethod
    def execute(cls, tuner_name: str) -> io.NodeOutput:
        path = folders.path_of(tuner_name, *_KEYS)
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
            description="Makes a model follow a hint image, for the positive and the negative prompt in one "
            "pass. Use Apply ControlNet instead where only one prompt shall follow it, and for tiled "
            "sampling.",
            inputs=[
                io.Model.Input("model", tooltip="The model to edit; its U-Net must be of the tuner's family."),
                io.ControlNet.Input("control_net", tooltip="From Load CSC-Tuner; other ControlNets do not fit."),
                io.Image.Input(
                    "image",
                    tooltip="The hint: edges, depth, pose or what the tuner was trained on. A batch of hints goes with "
                    "a batch of pictures or with the frames of a video.",
                ),
                strength_input(),
                *range_inputs(),
                io.Combo.Input(
                    "resize",
                    options=list(RESIZE_MODES),
                    default=RESIZE_MODES[1],
                    tooltip="How a hint of other proportions is fitted to the picture: stretch it, crop its centre (as "
                    "Apply ControlNet does), or pad it with black (with white for controls of dark lines).",
                ),
                block_weights_input(),
                mask_input(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model with the control in it.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        control_net,
        image,
        strength,
        start_percent,
        end_percent,
        resize,
        block_weights=None,
        mask=None,
    ) -> io.NodeOutput:
        if not isinstance(control_net, SCEditControl):
            raise SCEditError(
                f"control_net: expected a CSC-Tuner from Load CSC-Tuner, found a {type(control_net).__name__}; use the "
                "Apply ControlNet nodes for it"
            )
        tuner = control_net.tuner
        layout = check_fit(model.model, tuner)
        weights = None if block_weights is None else block_weights.for_blocks(len(layout))
        hint = ImageHint(tuner, image, resize)
        if strength == 0:
            return io.NodeOutput(model)
        patch = SkipPatch(tuner, strength, (start_percent, end_percent), weights, mask, hint=hint)
        return io.NodeOutput(patched(model, patch))
