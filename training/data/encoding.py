"""The cached parts of an example: latents, hint, mask and text states; made by the frozen base, read back from disk."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageChops
from torch import Tensor

from scedit_core.conditions.fitting import Fitting
from scedit_core.conditions.pictures import is_blank
from scedit_core.errors import DataError
from scedit_core.fitting.base import TextStates, stacked
from scedit_core.pictures.framing import Size
from scedit_core.pictures.reading import MASK_PAPER, read_picture, to_picture, to_tensor

from ..bases.base_model import BaseModel
from ..config import TrainConfig
from .cache import Cache, DamagedEntry, cache_key, tensors_size
from .examples import Example
from .hint_making import Hints

LATENTS, TEXTS, HINTS, MASKS = "latents", "texts", "hints", "masks"
LATENT_PIXELS = 8  # pixels of the picture for one of the latents
_BLANK = 32  # pixels for a byte of a PNG, of which one of a single colour has hundreds


@dataclass
class Sources:
    """picture, hint: [3,H,W] in 0..1, framed.  mask: framed, as large as the latents.  None: not needed."""

    picture: Tensor | None = None
    hint: Tensor | None = None
    mask: Image.Image | None = None


class Encoder:
    """Encodes one picture or caption at a time, so that what comes out depends on nothing else, not even in the last
    bit: a run that is killed while it fills the cache then goes on to the same numbers."""

    def __init__(self, base: BaseModel, config: TrainConfig, folder: Path) -> None:
        self.base, self.cache = base, Cache(folder)
        self.hints = None if config.data.condition is None else Hints(config.data, base.device)
        self._sizes: dict[tuple, int] = {}

    def is_cached(self, example: Example) -> bool:
        """Whether all parts of a picture lie in the cache; sizes of files tell those that a crash cut short."""
        return not self._missing(example)

    def read(self, example: Example) -> Sources:
        """Read the files of which missing parts are made; may be called from any thread.

        Raises DataError for a picture, hint or mask that cannot be read, and for a mask under which nothing counts.
        """
        missing, sources = self._missing(example), Sources()
        if missing & {"latents", "mirrored"} or ("hint" in missing and example.hint is None):
            picture = example.framing.apply(read_picture(example.path, example.path))
            sources.picture = to_tensor(picture if example.look is None else example.look.recoloured(picture))
        if "hint" in missing and example.hint is not None:
            sources.hint = ready_hint(example, self.hints.fitting)
        if "mask" in missing:
            sources.mask = framed_mask(example)
        return sources

    def encode(self, example: Example, sources: Sources) -> None:
        """Make the parts of a picture that are missing from what `read` gave."""
        missing = self._missing(example)
        if "hint" in missing:
            hint = self.hints.make(sources.picture) if sources.hint is None else sources.hint
            self.cache.write_pixels(HINTS, self._hint_key(example), to_picture(hint))
        if "mask" in missing:
            self.cache.write_picture(MASKS, self._mask_key(example), sources.mask)
        for part, mirrored in (("latents", False), ("mirrored", True)):
            if part in missing:
                pixels = sources.picture.flip(-1) if mirrored else sources.picture
                mean, std = self.base.encode_moments(pixels[None] * 2 - 1)
                moments = {"mean": mean[0].float(), "std": std[0].float()}
                self.cache.write_tensors(LATENTS, self._latents_key(example, mirrored), moments)

    def mend(self, example: Example) -> None:
        """Make again whatever of an example cannot be read back.  Raises DataError where its file is gone."""
        parts = [
            (self._latents_path(example, mirrored), lambda m=mirrored: self.moments(example, m))
            for mirrored in ((False, True) if example.flip else (False,))
        ]
        if self.hints is not None:
            parts += [(path, lambda: self.hint(example)) for path in self._hint_paths(example)]
        if example.masked:
            parts.append((self._mask_path(example), lambda: self.mask(example)))
        for path, read_back in parts:
            try:
                read_back()
            except DamagedEntry:
                with contextlib.suppress(OSError):  # what cannot be removed cannot be written either, which says why
                    path.unlink(missing_ok=True)
        self.encode(example, self.read(example))
        for caption in {example.caption, ""}:
            try:
                self.texts([caption])
            except DamagedEntry:
                self.encode_text(caption)

    def is_text_cached(self, caption: str) -> bool:
        """Whether the states of a caption lie in the cache."""
        return _size(self.cache.tensors_path(TEXTS, self._text_key(caption))) > 0

    def encode_text(self, caption: str) -> None:
        """Make the states of a caption."""
        states = self.base.encode_captions([caption])
        tensors = {"states": states.states[0]}
        if states.pooled is not None:
            tensors["pooled"] = states.pooled[0]
        self.cache.write_tensors(TEXTS, self._text_key(caption), tensors)

    def moments(self, example: Example, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [4,h,w] of the latents.  Raises DamagedEntry, as all that follow."""
        tensors = self.cache.read_tensors(LATENTS, self._latents_key(example, mirrored))
        return tensors["mean"], tensors["std"]

    def hint(self, example: Example) -> Tensor:
        """The hint [3,8h,8w] in 0..1, or what a step's hint is made of (see `Hints.for_step`)."""
        return self.cache.read_pixels(HINTS, self._hint_key(example)).float() / 255

    def blank_hint(self, example: Example) -> bool:
        """Whether the hint of an example that lies in the cache is of one colour, and so says nothing."""
        if self.hints is None or (self.hints.per_step and example.hint is None):
            return False
        width, height = example.bucket
        # others need not be opened
        if sum(map(_size, self._hint_paths(example))) > max(1024, width * height // _BLANK):
            return False
        with contextlib.suppress(DamagedEntry):
            return is_blank(self.hint(example))
        return False

    def mask(self, example: Example) -> Tensor:
        """The mask [1,h,w] in 0..1: ones where the example has none."""
        if not example.masked:
            return torch.ones(1, example.bucket[1] // LATENT_PIXELS, example.bucket[0] // LATENT_PIXELS)
        return to_tensor(self.cache.read_picture(MASKS, self._mask_key(example)))[:1]

    def texts(self, captions: list[str]) -> TextStates:
        """Text states of captions."""
        rows = [self.cache.read_tensors(TEXTS, self._text_key(caption)) for caption in captions]
        several = [TextStates(row["states"][None], row["pooled"][None] if "pooled" in row else None) for row in rows]
        return stacked(several)

    def _missing(self, example: Example) -> set[str]:
        missing = set()
        for part, mirrored in (("latents", False), ("mirrored", True)):
            wanted = example.flip or not mirrored
            if wanted and _size(self._latents_path(example, mirrored)) != self._latents_size(example.bucket):
                missing.add(part)
        if self.hints is not None and not any(map(_size, self._hint_paths(example))):
            missing.add("hint")
        if example.masked and not _size(self._mask_path(example)):
            missing.add("mask")
        return missing

    def _latents_size(self, bucket: Size) -> int:
        if bucket not in self._sizes:
            channels = self.base.vae.config.latent_channels
            shape = (channels, bucket[1] // LATENT_PIXELS, bucket[0] // LATENT_PIXELS)
            self._sizes[bucket] = tensors_size({"mean": shape, "std": shape})
        return self._sizes[bucket]

    def _latents_path(self, example: Example, mirrored: bool) -> Path:
        return self.cache.tensors_path(LATENTS, self._latents_key(example, mirrored))

    def _hint_paths(self, example: Example) -> tuple[Path, Path]:
        return self.cache.pixels_paths(HINTS, self._hint_key(example))

    def _mask_path(self, example: Example) -> Path:
        return self.cache.picture_path(MASKS, self._mask_key(example))

    def _latents_key(self, example: Example, mirrored: bool) -> str:
        look = [] if example.look is None else [example.look.place, example.look.colours]
        return cache_key(example.digest, example.size, example.bucket, self.base.vae_fingerprint, mirrored, *look)

    def _text_key(self, caption: str) -> str:
        return cache_key(caption, self.base.text_fingerprint)

    def _hint_key(self, example: Example) -> str:
        if example.hint is not None:
            fitting = self.hints.fitting.said()
            place = [] if example.look is None else example.look.place
            return cache_key(example.hint.digest, example.hint.size, example.size, example.bucket, fitting, *place)
        look = [] if example.look is None else [example.look.place, example.look.colours]
        return cache_key(example.digest, example.size, example.bucket, self.hints.mark, *look)

    def _mask_key(self, example: Example) -> str:
        parts = [] if example.mask is None else [example.mask.digest, example.mask.size]
        alpha = [example.digest, "alpha"] if example.alpha else []
        place = [] if example.look is None else example.look.place
        return cache_key(*parts, example.size, example.bucket, MASK_PAPER, *alpha, *place)


def framed_mask(example: Example) -> Image.Image:
    """The mask of an example as large as its latents: of its file, and of the picture's alpha where that counts.

    Raises DataError for one that cannot be read, and where nothing of the example counts; of a crop nothing may.
    """
    masks = []
    if example.mask is not None:
        masks.append((read_picture(example.mask.path, example.mask.path, MASK_PAPER), example.mask.path))
    if example.alpha:
        picture = read_picture(example.path, example.path, None)
        opaque = picture.getchannel("A") if picture.mode == "RGBA" else Image.new("L", picture.size, 255)
        masks.append((opaque, example.path))
    try:
        framed = [example.framing.mask(mask, path) for mask, path in masks]
        whole = framed[0] if len(framed) == 1 else ImageChops.multiply(*framed)
        if whole.getbbox() is None:
            raise DataError(
                f"{example.path}: expected a part that is opaque and white in its mask, found none; change one of them"
            )
    except DataError:
        if example.look is None or example.look.crop is None:
            raise
        return Image.new("L", (example.bucket[0] // LATENT_PIXELS, example.bucket[1] // LATENT_PIXELS))
    return whole


def ready_hint(example: Example, fitting: Fitting) -> Tensor:
    """The hint [3,H,W] in 0..1 of an example that has one in a file.  Raises DataError for one that cannot be read."""
    return example.framing.hint(read_picture(example.hint.path, example.hint.path, None), fitting)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
