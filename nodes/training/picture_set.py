"""The pictures that a MODEL is trained on: latents and conditionings of the graph, or a folder with VAE and CLIP.

All is encoded once and kept in files; what chance decides is drawn as the command line draws it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...scedit_core.conditions.fitting import fit_hint, fitting_of
from ...scedit_core.conditions.pictures import eight_bits, is_blank
from ...scedit_core.conditions.random_masks import random_completion
from ...scedit_core.conditions.trained import hint_maker
from ...scedit_core.errors import DataError
from ...scedit_core.fitting.base import TextStates, stacked
from ...scedit_core.fitting.batches import Batch, draw, held_out
from ...scedit_core.fitting.chance import generator_for
from ...scedit_core.fitting.order import Order
from ...scedit_core.fitting.remarks import BLANK_HINTS, Remarks
from ...scedit_core.fitting.settings import Settings
from ...scedit_core.pictures.finding import find_candidates
from ...scedit_core.pictures.framing import Framing, bucket_of, bucket_sizes
from ...scedit_core.pictures.reading import read_picture, to_tensor
from .encoded import Encoded
from .host_base import HostBase

COMPLETION = "completion"
_PIXELS = 8  # of a picture for one of its latents


@dataclass
class Picture:
    """One picture, encoded, in files that are read for each step that shows it.

    digest:  changes with what the picture shows.
    bucket:  width and height of the latents.
    sizes:   what SDXL is told of it.
    latents_file: of `moments`.  text_file: of `text`.  hint_file: of `pixels`, of a control.
    hint:    what a checkpoint knows of the hint.
    """

    name: str
    caption: str
    digest: str
    bucket: tuple[int, int]
    sizes: tuple[float, ...]
    latents_file: Path
    text_file: Path
    hint_file: Path | None = None
    hint: SimpleNamespace | None = None
    mask: None = None
    weight: float = 1.0

    @property
    def moments(self) -> tuple[Tensor, Tensor | None]:
        """Mean and deviation [4,h,w] of the latents as the model sees them."""
        found = load_file(self.latents_file)
        return found["mean"], found.get("std")

    @property
    def mean(self) -> Tensor:
        """[4,h,w] of the latents as the model sees them."""
        return self.moments[0]

    @property
    def text(self) -> TextStates:
        """One row, of its caption."""
        return TextStates(**load_file(self.text_file))

    @property
    def pixels(self) -> Tensor | None:
        """[3,8h,8w] as uint8: what a step's hint is made of."""
        return None if self.hint_file is None else load_file(self.hint_file)["pixels"]

    def show(self, pixels: Tensor, encoded: Encoded) -> None:
        """Take [3,8h,8w] in 0..1 as what a step's hint is made of."""
        pixels = eight_bits(pixels)
        self.hint_file, self.hint = encoded.keep(pixels=pixels), SimpleNamespace(digest=_digest(pixels))


@dataclass
class PictureSet:
    """See DataSet.  empty: the states of the empty caption, None where they are not known: no caption is dropped."""

    examples: list[Picture]
    config: Settings
    needs_sizes: bool
    empty: TextStates | None
    remarks: Remarks = field(default_factory=Remarks)
    held: list[Picture] = field(default_factory=list)
    unseen: bool = False

    def __post_init__(self) -> None:
        self.examples, held = held_out(self.examples, self.config.validation.hold_out)
        # where that is none, the first are measured, which are trained on as well
        self.held, self.unseen = held or self.examples[: self.config.validation.images], bool(held)
        buckets = sorted({picture.bucket for picture in self.examples})
        groups = [[i for i, p in enumerate(self.examples) if p.bucket == bucket] for bucket in buckets]
        self._order = Order(groups, self.config.loop.seed)
        condition = self.config.data.condition
        self._per_step = condition is not None and condition.type == COMPLETION
        for picture in () if self._per_step else (*self.examples, *self.held):
            if picture.hint_file is not None and is_blank(picture.pixels):
                self.remarks.add(*BLANK_HINTS, name=picture.name)

    def batch(self, step: int, size: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """See DataSet."""
        pictures = [self.examples[i] for i in self._order.rows(step, size)]
        seed, said = self.config.loop.seed, self.config.objective
        dropped = (said.caption_dropout if self.empty is not None else 0.0), said.condition_dropout
        rows = range(part[0], size, part[1])
        moments = [pictures[row].moments for row in rows]
        draws = draw(seed, step, size, moments[0][0].shape, 0.0, *dropped)
        latents, texts, hints = [], [], []
        for row, (mean, std) in zip(rows, moments, strict=True):
            picture = pictures[row]
            latents.append(mean if std is None else mean + std * draws.noise[row])
            texts.append(self.empty if draws.no_caption[row] else picture.text)
            if picture.hint_file is not None:
                hint = self._hint(picture, generator_for(seed, step, f"hidden {row}"))
                hints.append(torch.zeros_like(hint) if draws.no_hint[row] else hint)
        return self._batch(pictures[part[0] :: part[1]], latents, texts, hints)

    def batch_of(self, examples: Sequence[Picture]) -> Batch:
        """See DataSet."""
        hints = [
            self._hint(each, generator_for(0, 0, f"hidden of {each.digest}"))
            for each in examples
            if each.hint_file is not None
        ]
        return self._batch(examples, [e.mean for e in examples], [e.text for e in examples], hints)

    def _hint(self, picture: Picture, chance: torch.Generator) -> Tensor:
        hint = picture.pixels.float() / 255
        if not self._per_step:
            return hint
        return random_completion(hint.permute(1, 2, 0)[None], generator=chance)[0].permute(2, 0, 1)

    def _batch(self, pictures: Sequence[Picture], latents: list, texts: list, hints: list) -> Batch:
        return Batch(
            latents=torch.stack(latents),
            text=stacked(texts),
            sizes=torch.tensor([p.sizes for p in pictures]) if self.needs_sizes else None,
            hints=torch.stack(hints) if hints else None,
            masks=None,
            weights=torch.tensor([p.weight for p in pictures]),
        )


def from_folder(
    config: Settings, base: HostBase, encoded: Encoded, vae: Any, clip: Any, say: Callable[..., None]
) -> list[Picture]:
    """The pictures of `data.folder` with their captions, encoded by the graph's VAE and CLIP.

    Raises DataError for a folder without pictures; files that cannot be read are told and left out.
    """
    for what, part in (("vae", vae), ("clip", clip)):
        if part is None:
            raise DataError(
                f"{what}: expected one to encode the pictures of {config.data.folder}, found none; connect the "
                f"checkpoint's {what.upper()}"
            )
    found = find_candidates(config)
    for problem in found.problems:
        say("note", message=f"not used: {problem}")
    sizes = bucket_sizes(config.data.resolution)
    captions = dict.fromkeys(candidate.caption or "" for candidate in found.candidates)
    total = len(captions) + len(found.candidates)
    words: dict[str, Path] = {}
    for done, caption in enumerate(captions, 1):  # all of them first: a small GPU holds CLIP or VAE, not both
        words[caption] = encoded.keep(**vars(encode_text(clip, caption)))
        say("caching", done=done, total=total, hits=0, misses=done)
    pictures = []
    for done, candidate in enumerate(found.candidates, 1 + len(captions)):
        caption = candidate.caption or ""
        try:
            image = read_picture(candidate.path, candidate.path)
        except DataError as error:
            say("note", message=f"not used: {error}")
            continue
        framing = Framing(image.size, bucket_of(image.size, sizes))
        pixels = to_tensor(framing.apply(image))
        mean, std = _moments(vae, base, pixels.permute(1, 2, 0)[None])
        digest = hashlib.blake2b(Path(candidate.path).read_bytes(), digest_size=16).hexdigest()
        sizes_told = tuple(map(float, framing.micro_conditions))
        files = encoded.keep(mean=mean, std=std), words[caption]
        pictures.append(Picture(candidate.name, caption, digest, mean.shape[:0:-1], sizes_told, *files))
        if config.data.condition is not None:
            pictures[-1].show(pixels, encoded)
        say("caching", done=done, total=total, hits=0, misses=done)
    if not pictures:
        raise DataError(f"{config.data.folder}: expected pictures that can be read, found none; replace them")
    return pictures


def from_graph(base: HostBase, encoded: Encoded, latents: Sequence[dict], positive: Sequence[list]) -> list[Picture]:
    """Pictures of the graph: LATENT and CONDITIONING as core's dataset nodes give them, one caption to a picture.

    Raises DataError where there are none, where the counts differ, and for latents of another model.
    """
    samples = [each for latent in latents for each in latent["samples"]]
    texts = [row for conditioning in positive for row in _rows(conditioning)]
    if not samples:
        raise DataError("latents: expected at least one picture, found none; connect pictures through VAE Encode")
    if len(texts) == 1:
        texts *= len(samples)
    if len(texts) != len(samples):
        raise DataError(
            f"positive: expected one caption for each of {len(samples)} pictures, or one for all, found {len(texts)}; "
            "encode that many"
        )
    for each in samples:
        if each.ndim != 3 or each.shape[0] != base.latent_channels:
            raise DataError(
                f"latents: expected {base.latent_channels} channels for {base.layout.title}, found "
                f"{list(each.shape)}; encode the pictures with the VAE of this checkpoint"
            )
    pictures, words = [], {}
    for i, (latent, text) in enumerate(zip(samples, texts, strict=True)):
        latent = latent.clone().float()
        height, width = (float(side * _PIXELS) for side in latent.shape[-2:])
        told = (height, width, 0.0, 0.0, height, width)
        mean = base.model.model.process_latent_in(latent[None])[0]
        caption = _digest(text.states) if text.pooled is None else _digest(text.states) + _digest(text.pooled)
        if id(text) not in words:
            words[id(text)] = encoded.keep(**vars(text))
        files = encoded.keep(mean=mean), words[id(text)]
        pictures.append(Picture(f"{i:06d}", caption, _digest(latent), mean.shape[:0:-1], told, *files))
    return pictures


def give_hints(
    config: Settings,
    encoded: Encoded,
    pictures: list[Picture],
    images: Sequence[Tensor] | None,
    device: Any,
    say: Callable[..., None],
) -> None:
    """Give every picture its hint: the own one of `images` [B,H,W,C], or made from its pixels as the condition says.

    Raises DataError where there are not as many hints as pictures or they have other proportions, ConditionError
    where a detector is missing.
    """
    condition = config.data.condition
    if images is not None:
        own = [each for batch in images for each in batch]
        if len(own) != len(pictures):
            raise DataError(
                f"hints: expected one for each of {len(pictures)} pictures, found {len(own)}; connect as many hints as "
                "pictures, in their order"
            )
        fitting = fitting_of(condition.values())
        for i, (picture, hint) in enumerate(zip(pictures, own, strict=True), 1):
            width, height = (side * _PIXELS for side in picture.bucket)
            if abs(hint.shape[1] * height / (hint.shape[0] * width) - 1) > 0.03:
                raise DataError(
                    f"hints: expected hint {i} as {width}x{height} as its picture, found {hint.shape[1]}x"
                    f"{hint.shape[0]}; make hints from the same pictures"
                )
            fitted = fit_hint(hint.clone().movedim(-1, 0)[None].float(), height, width, fitting)[0]
            picture.show(fitted, encoded)
        return
    if any(picture.hint_file is None for picture in pictures):
        raise DataError(
            f"hints: expected pictures to make {condition.type} hints of, found latents alone; connect hints that were "
            "made of the same pictures, or name a folder"
        )
    if condition.type == COMPLETION:
        return
    make = hint_maker(condition.values(), None, device, None, config.data.annotators)
    for done, picture in enumerate(pictures, 1):
        with torch.inference_mode():
            made = make(picture.pixels.permute(1, 2, 0)[None].float() / 255)[0].permute(2, 0, 1)
        picture.show(made.clone().cpu(), encoded)
        say("caching", done=done, total=len(pictures), hits=0, misses=done)


def encode_text(clip: Any, caption: str) -> TextStates:
    """The states of one caption, one row."""
    with torch.inference_mode():
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
    return _rows(conditioning)[0]


def _rows(conditioning: list) -> list[TextStates]:
    """One for each row of a CONDITIONING."""
    rows = []
    for states, options in conditioning:
        pooled = options.get("pooled_output")
        pooled = itertools.repeat(None) if pooled is None else pooled.clone().float().cpu()[:, None]
        rows += [TextStates(s[None], p) for s, p in zip(states.clone().float().cpu(), pooled, strict=False)]
    return rows


def _moments(vae: Any, base: HostBase, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and deviation [4,h,w] of the latents of a picture [1,H,W,3], scaled as the model sees them."""
    seen: list[Tensor] = []
    regularization = getattr(getattr(vae, "first_stage_model", None), "regularization", None)
    hook = None
    if regularization is not None and type(regularization).__name__ == "DiagonalGaussianRegularizer":
        hook = regularization.register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach()))
    try:
        with torch.inference_mode():
            mean = vae.encode(pixels)
    finally:
        if hook is not None:
            hook.remove()
    mean = mean.clone().float().cpu()
    scaled = base.model.model.process_latent_in(mean)
    if len(seen) != 1 or seen[0].shape[1] != 2 * mean.shape[1] or seen[0].shape[-2:] != mean.shape[-2:]:
        return scaled[0], None  # no posterior, or encoded in tiles
    std = seen[0].clone().float().cpu().chunk(2, 1)[1].clamp(-30, 20).mul(0.5).exp()
    zero = base.model.model.process_latent_in(torch.zeros_like(mean))
    return scaled[0], (base.model.model.process_latent_in(std) - zero)[0]


def _digest(tensor: Tensor) -> str:
    return hashlib.blake2b(tensor.contiguous().cpu().reshape(-1).view(torch.uint8).numpy(), digest_size=16).hexdigest()
