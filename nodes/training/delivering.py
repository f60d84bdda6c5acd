"""Where a training from the graph keeps its files, and what its node gives of the trained tuner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ...scedit_core import CSCTuner, load_tuner
from .. import folders
from ..host.control import SCEditControl
from ..host.managed import ManagedTuner
from ..wires import SCTunerWire

_RUNS = "scedit"  # inside the host's output folder


def places_of(name: str) -> tuple[str, Path, str]:
    """Name without ending, run folder, and the path of the tuner's file.  Raises TunerFileError as `path_for` does."""
    output = folders.path_for(name)
    name = os.path.relpath(output, folders.home()).removesuffix(".safetensors").replace(os.sep, "/")
    return name, Path(folder_paths.get_output_directory(), _RUNS, name), output


def tuner_outputs() -> list[Any]:
    """The outputs of a node that trains a style or a control."""
    return [
        SCTunerWire.Output("sc_tuner", display_name="SC_TUNER", tooltip="The style, for Apply SC-Tuner."),
        io.ControlNet.Output(
            "control_net",
            display_name="CONTROL_NET",
            tooltip="The control, for Apply ControlNet or Apply CSC-Tuner.",
        ),
    ]


def delivered(name: str, output: str) -> ManagedTuner:
    """The trained tuner, from its file."""
    return ManagedTuner(load_tuner(output), f"{name}.safetensors", output)


def on_its_output(tuner: ManagedTuner) -> tuple[Any, Any]:
    """Values of `tuner_outputs`: the tuner on its own wire, and a sentence on the other."""
    control = isinstance(tuner.tuner, CSCTuner)
    blocked = ExecutionBlocker(
        f"{'sc_tuner' if control else 'control_net'}: expected nothing connected here, found a link; this training "
        f"made a {'control' if control else 'style'}; connect {'control_net' if control else 'sc_tuner'}, or "
        "choose another kind"
    )
    return (blocked, SCEditControl(tuner)) if control else (tuner, blocked)
