"""The part of the configuration that says what is trained on: pictures, captions, and how hints are made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

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


class WordingConfig(Section):
    """What captions say from step to step.  A caption that chance changes has so many `variants`, which are encoded
    once; which of them a step shows follows from the seed.

    columns:      of metadata.csv, metadata.jsonl or .json in shards; each holds a caption, or a list of them.
    lines:        each line of a caption file is a caption of its own, and a step shows one of them.
    wildcards:    {red|blue} is one of the two; a backslash before a brace leaves it a brace.
    shuffle_tags: tags, which `separator` parts, stand in another order each time, but for the first `keep_tags`.
    drop_tags:    share of the other tags that is left out.
    """

    columns: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(default=["text"])
    lines: bool = False
    wildcards: bool = False
    shuffle_tags: bool = False
    keep_tags: Annotated[int, Field(ge=0, le=1000)] = 0
    drop_tags: Annotated[float, Field(ge=0, lt=1)] = 0.0
    separator: Annotated[str, Field(min_length=1, max_length=10)] = ","
    variants: Annotated[int, Field(ge=2, le=1000)] = 8

    @model_validator(mode="after")
    def _something_to_keep_from(self) -> WordingConfig:
        if self.keep_tags and not (self.shuffle_tags or self.drop_tags):
            raise ValueError("expected shuffle_tags or drop_tags beside keep_tags, found neither")
        return self


class TextConfig(Section):
    """How captions are encoded, where it shall be otherwise than the base's own pipeline does.

    max_tokens: of a caption, read in chunks of 75 as ComfyUI reads them.
    clip_skip:  which layer's states are taken, counted as in *CLIP Set Last Layer*: -1 is the last; 2 is read as -2,
                as sd-scripts counts.  None is the base's own, which is -2 for SDXL and SD 2.x, and for SDXL no other.
    weights:    (this:1.2) counts more, as in ComfyUI's prompts; else brackets are text.
    """

    max_tokens: Annotated[int, Field(ge=75, le=750, multiple_of=75)] = 75
    clip_skip: Annotated[int, Field(ge=-24, le=24)] | None = None
    weights: bool = False

    @field_validator("clip_skip")
    @classmethod
    def _counted_from_the_end(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("expected -1 for the last layer, -2 for the one before it, or less")
        return value and -abs(value)


class LooksConfig(Section):
    """Other looks of each picture, of which a step shows one.  The first is the picture as it is; all are encoded once.

    count:      looks of a picture, the first included.
    crop:       the least share of a side that is seen; hints and masks are cropped alike.
    brightness, contrast, saturation: the most that each changes, 0.1 for a tenth.
    hue:        the most that colours are turned either way, 0.5 for half of the circle.

    Hints that are made from pictures are made from the changed ones, ready ones keep their colours.
    """

    count: Annotated[int, Field(ge=2, le=64)] = 4
    crop: Annotated[float, Field(ge=0.3, le=1)] = 1.0
    brightness: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    contrast: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0

    @model_validator(mode="after")
    def _changes_something(self) -> LooksConfig:
        if self.crop == 1 and not (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError("expected a crop below 1 or a change of colours, found neither")
        return self


class FolderConfig(Section):
    """One of several folders.  What it does not say is as in `data`, but that prior pictures get no caption before
    theirs.

    repeats: how often each of its pictures counts in a round.
    prior:   pictures of the subject's class, which keep the base's idea of it; all such are at most half of what is
             seen.
    weight:  of the loss of its pictures.
    flip, looks: in place of those of `data`; looks: false shows its pictures as they are.
    hints, masks: folders with the hint or mask of each picture.
    """

    folder: Path
    repeats: Annotated[int, Field(ge=1, le=10000)] = 1
    captions: Literal["required", "optional", "none"] | None = None
    caption: str | None = None
    wording: WordingConfig | None = None
    resolution: Annotated[int, Field(ge=64, le=4096, multiple_of=64)] | None = None
    prior: bool = False
    weight: Annotated[float, Field(ge=0, le=10)] = 1.0
    flip: bool | None = None
    looks: LooksConfig | Literal[False] | None = None
    hints: Path | None = None
    masks: Path | None = None


class DataConfig(Section):
    """The pictures: a `folder`, several `folders`, or tar `shards` (brace patterns such as set-{000..099}.tar).

    repeats_from_names: pictures below a folder named 10_dog count ten times, as sd-scripts has it; "dog" is the caption
                of those that have none.
    captions:   "required" stops at a picture without one, "optional" trains it without, "none" reads none.
    caption:    put before every caption, and used alone where there is none.
    hints:      folder of ready condition images, paired by stem; without it they are made as `condition` says.
    masks:      folder of masks, paired by stem: the loss counts where they are white, not where they are transparent.
    more_resolutions: sides of further squares; each picture is trained at each of them as well.
    upscale:    whether small pictures are enlarged; else they are trained at a size of their own.
    min_size:   pixels of the shorter side, below which a picture is left out.
    transparency: what is transparent is white, or a "mask": then the loss counts where pictures are opaque.
    bad_files:  "skip" names unreadable or unpaired files and goes on, "stop" ends the run.
    cache:      folder for latents and text states, in the run folder by default; may be shared by runs.
    """

    folder: Path | None = None
    folders: list[FolderConfig] = Field(default_factory=list)
    shards: str | list[str] | None = None
    resolution: Annotated[int, Field(ge=64, le=4096, multiple_of=64)] = 512
    buckets: bool = True
    max_aspect: Annotated[float, Field(ge=1, le=8)] = 2.0
    more_resolutions: list[Annotated[int, Field(ge=64, le=4096, multiple_of=64)]] = Field(default_factory=list)
    upscale: bool = True
    min_size: Annotated[int, Field(ge=0, le=4096)] = 0
    transparency: Literal["white", "mask"] = "white"
    flip: bool = False
    looks: LooksConfig | None = None
    repeats: Annotated[int, Field(ge=1)] = 1
    repeats_from_names: bool = False
    captions: Literal["required", "optional", "none"] = "required"
    caption: str = ""
    wording: WordingConfig | None = None
    condition: Condition | None = None
    hints: Path | None = None
    masks: Path | None = None
    prior: PriorConfig | None = None
    bad_files: Literal["skip", "stop"] = "skip"
    cache: Path | None = None
    annotators: Places | None = None  # where detectors lie, a host's models/scedit_annotators; one folder or several

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        given = [name for name in ("folder", "folders", "shards") if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"expected a folder, folders or shards, found {found}")
        for name in ("hints", "masks"):
            if self.folders and getattr(self, name) is not None:
                raise ValueError(f"expected {name} in each of data.folders that has some, found data.{name}")
        for name in ("more_resolutions", "looks"):
            if self.shards is not None and getattr(self, name):
                raise ValueError(f"expected no {name} beside shards, which are encoded on the way, found {name}")
        if self.shards is not None and (self.transparency == "mask" or not self.upscale or self.min_size):
            raise ValueError("expected none of transparency, upscale and min_size beside shards, found one")
        if self.condition is None and self.has_hints:
            raise ValueError("expected a condition that says what the hints are, found none")
        custom = self.condition is not None and self.condition.type == "custom"
        lacking = [entry for entry in self.folders if entry.hints is None] or not self.folders
        if custom and self.hints is None and lacking and self.shards is None:  # shards have their hints inside
            raise ValueError("expected a folder of hints for the condition custom, found none")
        flips = self.flip or any(entry.flip for entry in self.folders)
        if flips and self.condition is not None and self.condition.type in ("pose", "custom"):
            raise ValueError(f"expected flip: false for {self.condition.type} hints, whose left and right differ")
        return self

    @property
    def has_hints(self) -> bool:
        """Whether there are ready hints in folders."""
        return self.hints is not None or any(entry.hints is not None for entry in self.folders)
