"""SC-Tuners: load one, put it on a model."""

from __future__ import annotations

from comfy_api.latest import io

from ..scedit_core import load_tuner
from ..scedit_core.errors import UnknownLayoutError
from . import folders
from .host.managed import ManagedTuner, UnplacedTuner, no_control
from .host.patch import SIDES, applied, layout_of
from .wires import SCTunerWire, TunerLoader, edit_inputs


class SCEditLoadSCTuner(TunerLoader):
    """File -> SC_TUNER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditLoadSCTuner",
            display_name="Load SC-Tuner",
            category="SCEdit",
            description="Loads an SC-Tuner, a style or subject for one base model, from models/scedit. Files of "
            "SCEPTER, SWIFT and scedit-pytorch load as they were downloaded, folders included.",
            inputs=[
                io.Combo.Input(
                    "tuner_name",
                    options=folders.names(*cls.keys),
                    tooltip="The tuner file in models/scedit, or in a folder that extra_model_paths.yaml names scedit. "
                    "Press R after adding files.",
                )
            ],
            outputs=[SCTunerWire.Output(display_name="SC_TUNER", tooltip="For Apply SC-Tuner.")],
        )

    @classmethod
    def execute(cls, tuner_name: str) -> io.NodeOutput:
        path = folders.path_of(tuner_name, *cls.keys)
        try:
            tuner = load_tuner(path)
        except UnknownLayoutError as error:
            return io.NodeOutput(UnplacedTuner(tuner_name, path, str(error)))
        return io.NodeOutput(ManagedTuner(no_control(tuner, tuner_name), tuner_name, path))


class SCEditApplySCTuner(io.ComfyNode):
    """MODEL, SC_TUNER -> MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditApplySCTuner",
            display_name="Apply SC-Tuner",
            category="SCEdit",
            description="Gives a model the style or subject of an SC-Tuner. Several in a row add up, in any order.",
            inputs=[
                io.Model.Input("model", tooltip="The model to edit; its U-Net must be of the tuner's family."),
                SCTunerWire.Input("sc_tuner", tooltip="From Load SC-Tuner or Merge SC-Tuners."),
                *edit_inputs(
                    io.Combo.Input(
                        "side",
                        options=list(SIDES),
                        default=SIDES[0],
                        tooltip="Which prompts are edited: both, the positive only, or the negative only. Both is how "
                        "tuners are trained. Dual CFG Guider, Dual Model CFG Guider and Self-Attention Guidance number "
                        "prompts in another way: leave it at both with these.",
                    )
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model with the tuner in it.")],
        )

    @classmethod
    def execute(
        cls, model, sc_tuner, strength, start_percent, end_percent, side, block_weights=None, mask=None
    ) -> io.NodeOutput:
        if isinstance(sc_tuner, UnplacedTuner):
            sc_tuner = sc_tuner.placed(layout_of(model.model))
        percents = start_percent, end_percent
        return io.NodeOutput(applied(model, sc_tuner, strength, percents, block_weights, mask, side))
