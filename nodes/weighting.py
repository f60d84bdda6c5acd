"""A factor for each block of the U-Net."""

from __future__ import annotations

from comfy_api.latest import io

from ..scedit_core.block_weights import CUSTOM, PRESETS, BlockWeights
from .wires import BlockWeightsWire


class SCEditBlockWeights(io.ComfyNode):
    """Preset or list -> SCEDIT_BLOCK_WEIGHTS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditBlockWeights",
            display_name="SCEdit Block Weights",
            category="SCEdit",
            description="A factor for each block of the U-Net, deepest first: 12 for SD 1.5 and 2.1, 9 for SDXL. Deep "
            "blocks carry layout and shapes, shallow ones colour and texture.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="flat",
                    tooltip="flat: 1 everywhere. shallow only, deep only: 1 on that half, 0 on the other. ramp to "
                    "shallow, ramp to deep: evenly from 0 to 1. custom: the list below.",
                ),
                io.String.Input(
                    "weights",
                    default="1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1",
                    tooltip="For the custom preset: one number for each block between commas, the deepest first: 12 "
                    "for SD 1.5 and SD 2.1, 9 for SDXL. Any number; 1 is as trained, 0 leaves the block alone. "
                    "Checked where it is applied.",
                ),
            ],
            outputs=[
                BlockWeightsWire.Output(display_name="BLOCK_WEIGHTS", tooltip="For the nodes that apply a tuner.")
            ],
        )

    @classmethod
    def execute(cls, preset: str, weights: str) -> io.NodeOutput:
        return io.NodeOutput(BlockWeights.parse(weights) if preset == CUSTOM else BlockWeights(preset))
