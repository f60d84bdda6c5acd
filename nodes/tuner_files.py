"""Tuners as files: what one is, several as one, and saving."""

from __future__ import annotations

import os

import torch
from comfy_api.latest import io

from ..scedit_core import SCEditError, save_tuner
from ..scedit_core.describing import describe
from ..scedit_core.merging import merge_sc_tuners
from . import folders
from .host.control import SCEditControl
from .host.managed import ManagedTuner, UnplacedTuner
from .sentences import with_short_paths
from .wires import SCTunerWire, number

_DTYPES = {"as it is": None, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_TUNER = io.MultiType.Input(
    "tuner", types=[SCTunerWire, io.ControlNet], tooltip="An SC-Tuner, or a CONTROL_NET from Load CSC-Tuner."
)


def _managed(tuner: ManagedTuner | UnplacedTuner | SCEditControl) -> ManagedTuner | UnplacedTuner:
    tuner = tuner.tuner if isinstance(tuner, SCEditControl) else tuner
    if not isinstance(tuner, (ManagedTuner, UnplacedTuner)):
        raise SCEditError(
            f"tuner: expected one from Load SC-Tuner or Load CSC-Tuner, found a {type(tuner).__name__}; "
            "connect one of those nodes"
        )
    return tuner


class SCEditTunerInfo(io.ComfyNode):
    """SC_TUNER or CONTROL_NET -> text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditTunerInfo",
            display_name="SCEdit Tuner Info",
            category="SCEdit",
            description="Tells what a tuner is: kind, base model, size, condition, prediction, trained resolution and "
            "source. Connect a Preview as Text node to read it.",
            inputs=[_TUNER],
            outputs=[io.String.Output(display_name="text", tooltip="One line for each property.")],
        )

    @classmethod
    def execute(cls, tuner) -> io.NodeOutput:
        tuner = _managed(tuner)
        return io.NodeOutput(describe(tuner.tuner, with_short_paths(tuner.source)))


class SCEditMergeSCTuners(io.ComfyNode):
    """SC_TUNER twice or more -> SC_TUNER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs: list[io.Input] = []
        for i in (1, 2, 3, 4):
            tuner, more = f"SC-Tuner number {i}, for the same base model.", {"optional": i > 2}
            weight = f"Strength of tuner {i} in the sum, a factor from -10 to 10."
            inputs.append(SCTunerWire.Input(f"tuner_{i}", tooltip=tuner, **more))
            inputs.append(number(f"weight_{i}", weight, 1.0, -10.0, 10.0, 0.01, **more))
        return io.Schema(
            node_id="SCEditMergeSCTuners",
            display_name="Merge SC-Tuners",
            category="SCEdit",
            description="Adds SC-Tuners, each with a weight, into one tuner. Exact: the picture is the same as with "
            "the tuners applied one after the other. The result is as large as all of them together.",
            inputs=inputs,
            outputs=[SCTunerWire.Output(display_name="SC_TUNER", tooltip="For Apply SC-Tuner or Save SCEdit Tuner.")],
        )

    @classmethod
    def execute(
        cls, tuner_1, weight_1, tuner_2, weight_2, tuner_3=None, weight_3=1.0, tuner_4=None, weight_4=1.0
    ) -> io.NodeOutput:
        pairs = [(tuner_1, weight_1), (tuner_2, weight_2), (tuner_3, weight_3), (tuner_4, weight_4)]
        chosen = [(tuner, weight) for tuner, weight in pairs if tuner is not None]
        merged = merge_sc_tuners([(tuner.tuner, weight) for tuner, weight in chosen])
        source = " + ".join(f"{weight:g} x {tuner.name}" for tuner, weight in chosen)
        return io.NodeOutput(ManagedTuner(merged, source, source, mapped=False))


class SCEditSaveTuner(io.ComfyNode):
    """SC_TUNER or CONTROL_NET -> file in models/scedit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditSaveTuner",
            display_name="Save SCEdit Tuner",
            category="SCEdit",
            description="Saves a tuner in the pack's own format into models/scedit. Its metadata are kept; title and "
            "note are added. The file is complete or not there at all.",
            inputs=[
                _TUNER,
                io.String.Input(
                    "name",
                    default="my_tuner",
                    tooltip="File name inside models/scedit, without ending; folders before it are made.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(_DTYPES),
                    default="as it is",
                    tooltip="Number format of the weights. float16 and bfloat16 halve a file in float32 and round its "
                    "weights.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="On: replace a file of that name. Off: stop with an error where there is one.",
                ),
                io.String.Input(
                    "title", default="", optional=True, tooltip="Title in the file's metadata; empty keeps the old one."
                ),
                io.String.Input(
                    "note",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Description for the file's metadata; empty keeps the old one.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The full path of the written file.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, tuner, name: str, dtype: str, overwrite: bool, title: str = "", note: str = "") -> io.NodeOutput:
        path = folders.path_for(name)
        if os.path.exists(path) and not overwrite:
            raise SCEditError(
                f"{path}: expected a name that is not taken, found a file; choose another name or switch overwrite on"
            )
        added = {"modelspec.title": title, "modelspec.description": note}
        saved = save_tuner(_managed(tuner).tuner, path, {k: v for k, v in added.items() if v}, _DTYPES[dtype])
        return io.NodeOutput(str(saved), ui={"text": [f"Saved {saved}"]})
