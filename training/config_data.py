"""The part of the configuration that says what is trained on: pictures, captions, and how hints are made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .config_section import Places, Section


class CannyCondition(Section):
    """Edges: thresholds on 0..255, blur as sigma in pixels."""

    type: Literal["canny"]
    low: Annotated[float, Field(ge=0, le=10000)] = 100.0
    high: Annotated[float, Field(ge=0, le=10000)] = 200.0
    blur: Annotated[float, Field(ge=0, le=100)] = 0.0


class SoftEdgeCondition(Section):
    """Soft edges of HED; `detector` is its weight file."""

    type: Literal["soft_edge"]
    polarity: Literal["dark_on_light", "light_on_dark"] = "dark_on_light"
    safe: bool = False
    scribble: bool = False
    detector: Path | None = None


class DepthCondition(Section):
    """Depth, near is light unless inverted; `detector` is a transformers folder."""

    type: Literal["depth"]
    invert: bool = False
    detector: Path | None = None


class PoseCondition(Section):
    """OpenPose's body; `detector` is a transformers folder of ViTPose, `persons` one of RT-DETR."""

    type: Literal["pose"]
    detector: Path | None = None
    persons: Path | None = None


class SegmentationCondition(Section):
    """ADE20K classes in the standard palette; `detector` is a transformers folder."""

    type: Literal["segmentation"]
    detector: Path | None = None


class ColorPaletteCondition(Section):
    """A mosaic; `cell` is the side of a square in pixels."""

    type: Literal["color_palette"]
    cell: Annotated[int, Field(ge=1, le=4096)] = 64


class CompletionCondition(Section):
    """A picture to complete: in each step another part of it is missing."""

    type: Literal["completion"]


class CustomCondition(Section):
    """Hints of your own, from `data.hints`; `name` goes into the tuner's metadata.

    fitting: how they come to the size of the picture: "lines" keep thin lines, "flat" mixes no colours, "smooth" is for
             all else.  By default that of the condition whose name they have, else smooth.
    nothing: the colour where they are transparent; by default as well, else black.
    """

    type: Literal["custom"]
    name: Annotated[str, Field(min_length=1, max_length=60)]
    fitting: Literal["lines", "flat", "smooth"] | None = None
    nothing: Literal["black", "white"] | None = None


Condition = Annotated[
    CannyCondition
    | SoftEdgeCondition
    | DepthCondition
    | PoseCondition
    | SegmentationCondition
    | ColorPaletteCondition
    | CompletionCondition
    | CustomCondition,
    Field(discriminator="type"),
]


class PriorConfig(Section):
    """Pictures of the subject's class, which keep the base's idea of it (prior preservation).

    They are at most half of what is seen, and less where `data.repeats` shows the own pictures more often.
    """

    folder: Path
    weight: Annotated[float, Field(ge=0, le=10)] = 1.0


class DataConfig(Section):
    """The pictures: a `folder`, or tar `shards` (brace patterns such as set-{000..099}.tar).

    captions:   "required" stops at a picture without one, "optional" trains it without, "none" reads none.
    caption:    put before every caption, and used alone where there is none.
    hints:      folder of ready condition images, paired by stem; without it they are made as `condition` says.
    masks:      folder of masks, paired by stem: the loss counts where they are white, not where they are transparent.
    bad_files:  "skip" names unreadable or unpaired files and goes on, "stop" ends the run.
    cache:      folder for latents and text states, in the run folder by default; may be shared by runs.
    """

    folder: Path | None = None
    shards: str | list[str] | None = None
    resolution: Annotated[int, Field(ge=64, le=4096, multiple_of=64)] = 512
    buckets: bool = True
    max_aspect: Annotated[float, Field(ge=1, le=8)] = 2.0
    flip: bool = False
    repeats: Annotated[int, Field(ge=1)] = 1
    captions: Literal["required", "optional", "none"] = "required"
    caption: str = ""
    condition: Condition | None = None
    hints: Path | None = None
    masks: Path | None = None
    prior: PriorConfig | None = None
    bad_files: Literal["skip", "stop"] = "skip"
    cache: Path | None = None
    annotators: Places | None = None  # where detectors lie, a host's models/scedit_annotators; one folder or several

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.folder is None) == (self.shards is None):
            found = "neither" if self.folder is None else "both"
            raise ValueError(f"expected either a folder or shards, found {found}")
        if self.condition is None and self.hints is not None:
            raise ValueError("expected a condition that says what the hints are, found none")
        custom = self.condition is not None and self.condition.type == "custom"
        if custom and self.hints is None and self.shards is None:  # shards have their hints inside
            raise ValueError("expected a folder of hints for the condition custom, found none")
        if self.flip and self.condition is not None and self.condition.type in ("pose", "custom"):
            raise ValueError(f"expected flip: false for {self.condition.type} hints, whose left and right differ")
        return self
