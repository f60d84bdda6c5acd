"""What the trainer asks of its data, whether that lies in folders or in shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scedit_core.conditions.fitting import Fitting
from scedit_core.fitting.batches import Batch, Draws, draw
from scedit_core.fitting.chance import generator_for
from scedit_core.fitting.remarks import Remarks
from scedit_core.pictures.framing import Framing, Size, bucket_of, bucket_sizes
from scedit_core.pictures.reading import measure, read_picture, to_tensor

from ..bases.base_model import BaseModel, TextStates
from ..config import TrainConfig
from .cache import DamagedEntry
from .encoding import Encoder
from .examples import Example

_NOTES = 20  # files that are named one by one
MORE_OF_A_SIZE = "add pictures, lower loop.batch and raise loop.accumulate instead, or set data.buckets to false"
_LENGTHS = 10_000  # captions whose length is looked at: some seconds


class TrainingSet(ABC):
    """examples: what is trained on; empty for shards, which are not counted.
    held:     examples for validation and previews.
    unseen:   whether those are kept out of training.
    buckets:  sizes (width, height) that occur.
    problems: files that are not used, a sentence each.
    remarks:  what a user should know of the set.
    flips:    whether some are mirrored at random.
    round_rows: rows in a round that shows each picture as often as it counts; None for shards, which are not counted.
    """

    examples: Sequence[Example]
    held: list[Example]
    unseen: bool
    buckets: list[Size]
    problems: list[str]
    remarks: Remarks
    round_rows: int | None = None

    def __init__(self, base: BaseModel, config: TrainConfig, encoder: Encoder) -> None:
        self.base, self.config, self._encoder = base, config, encoder
        self.flips = config.data.flip

    @abstractmethod
    def batch(self, step: int, size: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """Rows part[0]::part[1] of the batch of `size` rows that belongs to `step`, all of one bucket."""

    def batch_of(self, examples: Sequence[Example]) -> Batch:
        """Examples as they are: nothing dropped, nothing mirrored, latents at their mean.

        Raises ValueError for examples of several buckets.
        """
        if len({example.bucket for example in examples}) != 1:
            raise ValueError(f"batch_of: expected examples of one bucket, found {[e.bucket for e in examples]}")
        try:
            return self._plain(examples)
        except DamagedEntry:
            self._mend(examples)
            return self._plain(examples)

    def framed(self, path: Path, fitting: Fitting | None = None) -> Tensor:
        """A picture from a file, or with `fitting` a ready hint, for the bucket that fits it best: [3,H,W] in 0..1.

        Raises DataError for a file that is no picture.
        """
        size, data = measure(path, path).size, self.config.data
        framing = Framing(size, bucket_of(size, bucket_sizes(data.resolution, data.buckets, data.max_aspect)))
        if fitting is not None:
            return framing.hint(read_picture(path, path, None), fitting)
        return to_tensor(framing.apply(read_picture(path, path)))

    def draws(self, step: int, size: int, latent_shape: Sequence[int]) -> Draws:
        """What chance decides for the whole batch of a step."""
        said = self.config.objective
        flip = 0.5 if self.flips else 0.0
        seed, dropped = self.config.loop.seed, (said.caption_dropout, said.condition_dropout)
        return draw(seed, step, size, latent_shape, flip, *dropped)

    def _drawn(
        self, step: int, row: int, draws: Draws, moments: tuple[Tensor, Tensor], hint: Tensor | None, ready: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Latents and hint of a row as chance has them, from their moments and what is cached of the hint.

        ready: whether the hint is one of the user's, which is taken as it is.
        """
        if hint is not None:
            if not ready:
                hint = self._encoder.hints.for_step(hint, generator_for(self.config.loop.seed, step, f"hidden {row}"))
            if draws.no_hint[row]:
                hint = torch.zeros_like(hint)
        mean, std = moments
        return mean + std * draws.noise[row], hint

    def wording_draws(self, step: int, size: int) -> list[float]:
        """A number from 0 to 1 for each row of a step, which chooses among its captions."""
        return torch.rand(size, generator=generator_for(self.config.loop.seed, step, "wording")).tolist()

    def _plain(self, examples: Sequence[Example]) -> Batch:
        latents = [self._encoder.moments(example, False)[0] for example in examples]
        hints, masks = [], []
        if self._encoder.hints is not None:
            for e in examples:
                hint = self._encoder.hint(e)
                if e.hint is None:  # a ready one is taken as it is
                    hint = self._encoder.hints.for_step(hint, generator_for(0, 0, f"hidden of {e.digest}"))
                hints.append(hint)
        if any(example.masked for example in examples):
            masks = [self._encoder.mask(example) for example in examples]
        return self._stacked(examples, latents, self._encoder.texts([e.caption for e in examples]), hints, masks)

    def _stacked(self, examples: Sequence[Example], latents: list, text: TextStates, hints: list, masks: list) -> Batch:
        sizes = None
        if self.base.needs_sizes:
            sizes = torch.tensor([e.framing.micro_conditions for e in examples], dtype=torch.float32)
        return Batch(
            latents=torch.stack(latents),
            text=text,
            sizes=sizes,
            hints=torch.stack(hints) if hints else None,
            masks=torch.stack(masks) if masks else None,
            weights=torch.tensor([e.weight for e in examples]),
        )

    def _mend(self, examples: Sequence[Example]) -> None:
        """Make again what of these examples cannot be read back."""
        away = next(self.base.vae.parameters()).device != self.base.device
        if away:
            self.base.restore_encoders()
        try:
            for example in examples:
                self._encoder.mend(example)
        finally:
            if away:
                self.base.release_encoders()


def remarks_on_captions(base: BaseModel, captions: Iterable[str], remarks: Remarks) -> None:
    """Say of which captions the text encoder reads the beginning only."""
    captions = list(dict.fromkeys(captions))[:_LENGTHS]
    limit = base.caption_limit
    for length, caption in zip(base.caption_lengths(captions), captions, strict=True):
        if length > limit:
            remarks.add(
                f"captions of more than {limit} tokens, of which the rest is not read",
                "raise text.max_tokens, shorten them, or put what matters first",
                name=repr(caption[:40]),
                sentence=f"{length} tokens: {caption}",
            )


def remarks_on_sizes(counts: Mapping[Size, int], seen: Mapping[Size, int], batch: int, remarks: Remarks) -> None:
    """Say of which sizes there are fewer pictures than a batch has rows.

    counts: pictures of each size.  seen: rows of each in a round, which repeats may make more.
    """
    few = {size: count for size, count in counts.items() if count < batch}
    share = sum(seen[size] for size in few) / max(1, sum(seen.values()))
    for (width, height), count in few.items():
        remarks.add(
            f"sizes with fewer pictures than a batch, so that {share:.0%} of all batches show one several times",
            MORE_OF_A_SIZE,
            name=f"{width}x{height}",
            sentence=f"{width}x{height}: {count} pictures for a batch of {batch}",
        )


def tell_problems(problems: Sequence[str], say: Callable[..., None]) -> None:
    """Say which files are not used, the first of them by name."""
    for problem in problems[:_NOTES]:
        say("note", message=f"not used: {problem}")
    if len(problems) > _NOTES:
        more = len(problems) - _NOTES
        say("note", message=f"not used: {more} more files; python -m training check names all of them")
