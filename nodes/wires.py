"""The pack's own wire types, and the widgets that several of its nodes have in common."""

from __future__ import annotations

from comfy_api.latest import io

SCTunerWire = io.Custom("SC_TUNER")
BlockWeightsWire = io.Custom("SCEDIT_BLOCK_WEIGHTS")


def number(
    name: str, tooltip: str, default: float, lowest: float, highest: float, step: float, **more
) -> io.Float.Input:
    """A number between two others."""
    return io.Float.Input(name, default=default, min=lowest, max=highest, step=step, tooltip=tooltip, **more)


def strength_input() -> io.Float.Input:
    """How much of the edit is added."""
    tooltip = (
        "How much of the tuner's edit is added to the skips: 1 as trained, 0 none at all, negative the opposite. A "
        "factor from -10 to 10."
    )
    return number("strength", tooltip, 1.0, -10.0, 10.0, 0.01)


def range_inputs() -> tuple[io.Float.Input, io.Float.Input]:
    """From where to where in the schedule the tuner is at work."""
    start = (
        "Where in the noise schedule the tuner begins, as a fraction from 0 (pure noise) to 1 (the finished picture)."
    )
    end = (
        "Where in the noise schedule the tuner ends, as a fraction from 0 to 1. The range ends just before this point; "
        "1 includes the last step."
    )
    return number("start_percent", start, 0.0, 0.0, 1.0, 0.001), number("end_percent", end, 1.0, 0.0, 1.0, 0.001)


def block_weights_input() -> io.Custom.Input:
    """A factor for each block."""
    return BlockWeightsWire.Input(
        "block_weights",
        optional=True,
        tooltip="A factor for each block, from SCEdit Block Weights. Without it, 1 for all.",
    )


def mask_input() -> io.Mask.Input:
    """Where in the picture the tuner is at work."""
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="Where in the picture the tuner works: 1 fully, 0 not at all. Stretched to the picture, or to the "
        "area or tile of it that the model is given; a batch of masks goes with a batch of pictures.",
    )
