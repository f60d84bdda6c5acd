"""The pack's own wire types, and what several of its nodes have in common."""

from __future__ import annotations

from comfy_api.latest import io

from . import folders

SCTunerWire = io.Custom("SC_TUNER")
BlockWeightsWire = io.Custom("SCEDIT_BLOCK_WEIGHTS")


class TunerLoader(io.ComfyNode):
    """What nodes that load a tuner have in common: its file in one of the folders `keys`."""

    keys: tuple[str, ...] = (folders.KEY,)

    @classmethod
    def fingerprint_inputs(cls, tuner_name: str | None) -> str:
        return folders.fingerprint(tuner_name, *cls.keys)

    @classmethod
    def validate_inputs(cls, tuner_name: str | None) -> bool:
        return True  # a missing file is told by execute: of a refusal here the page shows no sentence


def number(name: str, tooltip: str, default: float, lowest: float, highest: float, step: float, **more: bool):
    """A number between two others."""
    return io.Float.Input(name, default=default, min=lowest, max=highest, step=step, tooltip=tooltip, **more)


def edit_inputs(own: io.Input) -> list[io.Input]:
    """How, when and where a tuner is at work, with the `own` choice of a node among it."""
    strength = (
        "How much of the tuner's edit is added to the skips: 1 as trained, 0 none at all, negative the opposite. A "
        "factor from -10 to 10."
    )
    start = (
        "Where in the noise schedule the tuner begins, as a fraction from 0 (pure noise) to 1 (the finished picture)."
    )
    end = (
        "Where in the noise schedule the tuner ends, as a fraction from 0 to 1. The range ends just before this point; "
        "1 includes the last step."
    )
    weights = "A factor for each block, from SCEdit Block Weights. Without it, 1 for all."
    mask = (
        "Where in the picture the tuner works: 1 fully, 0 not at all. Stretched to the picture, or to the area or tile "
        "of it that the model is given; a batch of masks goes with a batch of pictures."
    )
    return [
        number("strength", strength, 1.0, -10.0, 10.0, 0.01),
        number("start_percent", start, 0.0, 0.0, 1.0, 0.001),
        number("end_percent", end, 1.0, 0.0, 1.0, 0.001),
        own,
        BlockWeightsWire.Input("block_weights", optional=True, tooltip=weights),
        io.Mask.Input("mask", optional=True, tooltip=mask),
    ]
