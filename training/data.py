"""Training data: a folder of images with captions, held in memory as latents, text states and hints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from scedit_core.conditions.canny import CannyOptions, canny

from .base_model import BaseModel
from .config import CannyCondition, DataConfig
from .errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Example:
    """One picture on disk and its caption."""

    path: Path
    caption: str


@dataclass
class Batch:
    """What one step sees: latents [B,4,h,w], text states [B,L,D], and hints [B,3,8h,8w] in 0..1 for controls."""

    latents: Tensor
    states: Tensor
    hints: Tensor | None


def find_examples(config: DataConfig) -> list[Example]:
    """All images of the folder with their captions, sorted by name.

    Raises DataError for a folder without images and, where captions are required, for images without one.
    """
    if not config.folder.is_dir():
        raise DataError(f"{config.folder}: expected a folder of images, found no folder; check data.folder")
    paths = sorted(p for p in config.folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(
            f"{config.folder}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none; put pictures into the folder"
        )
    captions = {p: _caption(p) for p in paths}
    missing = [p.name for p, text in captions.items() if text is None]
    if missing and config.captions == "required":
        raise DataError(
            f"{config.folder}: expected a .txt caption beside each of {len(paths)} images, found {len(missing)} "
            f"without ({', '.join(missing[:3])}); write them, or set data.captions to optional"
        )
    return [Example(p, captions[p] or "") for p in paths]


def _caption(image: Path) -> str | None:
    text = image.with_suffix(".txt")
    try:
        return " ".join(text.read_text("utf-8").split()) if text.is_file() else None
    except UnicodeDecodeError as error:
        raise DataError(f"{text}: expected a caption in UTF-8, found other bytes; save the file as UTF-8") from error


def read_image(path: Path, resolution: int) -> np.ndarray:
    """An image as uint8 RGB [resolution, resolution, 3]: turned as its EXIF says, scaled and cropped at the centre."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
            image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected a readable image, found a broken one ({error}); remove or replace it"
        ) from error
    return np.asarray(image)


def make_hints(images: Tensor, condition: CannyCondition) -> Tensor:
    """Hints [B,3,H,W] in 0..1 from images [B,H,W,3] in 0..1."""
    options = CannyOptions(low=condition.low, high=condition.high, blur=condition.blur)
    return canny(images, options).permute(0, 3, 1, 2)


class TrainingSet:
    """The examples of a folder, encoded once by the frozen parts of the base model.

    Latents and text states are kept in the base's dtype, hints as bytes, so that ten thousand 128x128 pictures with
    hints take about half a gigabyte.
    """

    def __init__(self, base: BaseModel, config: DataConfig, examples: list[Example], on_image=None) -> None:
        latents, hints = [], []
        with torch.no_grad():
            for first in range(0, len(examples), 32):
                part = examples[first : first + 32]
                pixels = torch.from_numpy(np.stack([read_image(e.path, config.resolution) for e in part])).float() / 255
                if config.condition is not None:
                    hints.append((make_hints(pixels, config.condition) * 255).round().to(torch.uint8))
                latents.append(base.encode_images(pixels.permute(0, 3, 1, 2) * 2 - 1).cpu())
                if on_image is not None:
                    on_image(len(part))
            captions = sorted({e.caption for e in examples} | {""})
            states = torch.cat([base.encode_captions(captions[i : i + 64]).cpu() for i in range(0, len(captions), 64)])
        self.latents = torch.cat(latents)
        self.hints = torch.cat(hints) if hints else None
        self._states = states
        place = {text: i for i, text in enumerate(captions)}
        self._state_of = torch.tensor([place[e.caption] for e in examples])
        self._no_caption = place[""]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, rows: Tensor, without_caption: Tensor) -> Batch:
        """The examples of `rows` [B]; those where `without_caption` [B] is true get the empty caption."""
        which = torch.where(without_caption, self._no_caption, self._state_of[rows])
        hints = None if self.hints is None else self.hints[rows].float() / 255
        return Batch(self.latents[rows], self._states[which], hints)


def epochs(count: int, batch: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
    """Rows of a step's batch, step after step, each epoch in an order of its own that `seed` decides."""
    step = first_step
    while True:
        places = torch.arange(step * batch, (step + 1) * batch)
        rows = torch.empty(batch, dtype=torch.long)
        for epoch in (places // count).unique().tolist():
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            here = places // count == epoch
            rows[here] = order[places[here] % count]
        yield rows
        step += 1
