"""A training set in tar shards: streamed, and encoded on the way, for sets that outgrow a disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from scedit_core.conditions.pictures import is_blank
from scedit_core.errors import DataError
from scedit_core.fitting.remarks import BLANK_HINTS, Remarks
from scedit_core.pictures.framing import Framing, Size, bucket_of, bucket_sizes
from scedit_core.pictures.reading import MASK_PAPER, measure

from ..bases.base_model import BaseModel
from ..config import TrainConfig
from .encoding import LATENT_PIXELS, Encoder
from .examples import Example, Partner
from .filling import fill_cache
from .shard_reading import Row, RowBatch, Sample, ShardRows, expand_shards, row_batches, samples_of, shaped
from .survey import Survey, cache_folder, check_survey, survey
from .training_set import MORE_OF_A_SIZE, Batch, TrainingSet, remarks_on_captions, tell_problems

_WORKERS = 2  # for each process, where there are shards enough; a fixed number, since the order depends on it


class ShardSet(TrainingSet):
    """Batches whose rows come from the shards of this process.

    What a step sees depends on (seed, step, size, part) alone.  Steps in a row go on reading; any other step begins
    anew and goes through all that came before, reading but not decoding it.
    """

    def __init__(
        self,
        base: BaseModel,
        config: TrainConfig,
        encoder: Encoder,
        urls: list[str],
        held: Survey,
        excluded: frozenset[str],
        say: Callable[..., None],
    ) -> None:
        super().__init__(base, config, encoder)
        data = config.data
        self.examples, self.held, self.unseen, self.problems = [], held.held, held.unseen, list(held.problems)
        self.remarks = held.all_remarks()
        remarks_on_captions(base, (example.caption for example in self.held), self.remarks)
        self.buckets = bucket_sizes(data.resolution, data.buckets, data.max_aspect)
        self._urls, self._excluded, self._say = urls, excluded, say
        self._following: tuple | None = None
        self._stream: Iterator[RowBatch] = iter(())

    @classmethod
    def prepared(
        cls, base: BaseModel, config: TrainConfig, say: Callable[..., None], process: tuple[int, int]
    ) -> ShardSet:
        """See `open_data`.  Only what is held for validation and previews is encoded beforehand."""
        data = config.data
        for name in ("prior", "hints", "masks"):
            if getattr(data, name) is not None:
                instead = (
                    "set data.folder instead" if name == "prior" else f"put them into the shards as .{name[:-1]}.png"
                )
                raise DataError(f"data.{name}: expected none beside shards, found {name}; {instead}")
        urls = expand_shards(data.shards)
        if len(urls) < process[1]:
            raise DataError(
                f"data.shards: expected at least one shard for each of {process[1]} processes, found {len(urls)}; "
                "split them or use fewer processes"
            )
        encoder = Encoder(base, config, cache_folder(config))
        excluded: frozenset[str] = frozenset()
        if config.validation.folder is not None:
            found = survey(config, process)
        else:
            found, keys = first_of(urls, config)
            excluded = keys if config.validation.hold_out else excluded
        check_survey(found, config)
        fill_cache(encoder, found, say, process)
        check_survey(found, config)
        if not found.held:
            reason = f", the first problem is {found.problems[0]}" if found.problems else ""
            raise DataError(f"data.shards: expected pictures that can be used, found none in {urls[0]}{reason}")
        return cls(base, config, encoder, urls, found, excluded, say)

    def batch(self, step: int, size: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """See `TrainingSet.batch`."""
        if self._following != (step, size, part):
            rows = len(range(part[0], size, part[1]))
            workers = min(_WORKERS, len(self._urls) // part[1])
            seed = self.config.loop.seed
            read = ShardRows(self._urls, self.config.data, seed, part, rows, step, self._excluded)
            self._stream = row_batches(read, workers)
        found = next(self._stream)
        self._tell(found)
        self._following = (step + 1, size, part)
        return self._encoded(found.rows, step, size, part)

    def _tell(self, found: RowBatch) -> None:
        fresh = [problem for problem in found.problems if problem not in self.problems]
        self.problems += fresh
        if fresh and self.config.data.bad_files == "stop":
            raise DataError(f"{fresh[0]}, or set data.bad_files to skip")
        tell_problems(fresh, self._say)
        if not found.rows:
            reason = f", the first problem is {self.problems[0]}" if self.problems else ""
            raise DataError(f"data.shards: expected pictures that can be used, found none{reason}")

    def _remark(self, rows: list[Row], blank: list[Row]) -> None:
        """Say, where it is met for the first time, what other sets say beforehand: shards are not gone through twice.

        blank: the rows whose hints are of one colour.
        """
        remarks = Remarks()
        remarks_on_captions(self.base, (row.caption for row in rows), remarks)
        for row in blank:
            remarks.add(*BLANK_HINTS, name=Path(row.key).name, sentence=row.key)
        if len({row.key for row in rows}) < len(rows):
            width, height = rows[0].framing.target
            remarks.add(
                "sizes of which a batch shows one picture several times", MORE_OF_A_SIZE, name=f"{width}x{height}"
            )
        for remark in remarks:
            if not any(known.what == remark.what for known in self.remarks):
                self._say("note", message=f"{remark}; python -m training check counts them all")
        self.remarks.take(remarks)

    @torch.no_grad()
    def _encoded(self, rows: list[Row], step: int, size: int, part: tuple[int, int]) -> Batch:
        if next(self.base.vae.parameters()).device != self.base.device:
            self.base.restore_encoders()  # they stay: every step needs them
        height, width = rows[0].picture.shape[-2:]
        side = (height // LATENT_PIXELS, width // LATENT_PIXELS)
        draws = self.draws(step, size, (self.base.vae.config.latent_channels, *side))
        latents, hints, blank = [], [], []
        numbers = range(part[0], size, part[1])
        for number, row in zip(numbers, rows, strict=True):
            mirrored = bool(draws.mirrored[number])
            picture = _floats(row.picture, mirrored)
            hint, ready = None, row.hint is not None
            if self._encoder.hints is not None and not row.known:
                hint, ready = torch.zeros_like(picture), True  # it counts for nothing, and own hints cannot be made
            elif self._encoder.hints is not None:
                hint = _floats(row.hint, mirrored) if ready else self._encoder.hints.make(picture)
                if (ready or not self._encoder.hints.per_step) and is_blank(hint):
                    blank.append(row)
            moments = (moment[0].float().cpu() for moment in self.base.encode_moments(picture[None] * 2 - 1))
            latent, hint = self._drawn(step, number, draws, moments, hint, ready)
            latents.append(latent)
            if hint is not None:
                hints.append(hint)
        self._remark(rows, blank)
        chances = self.wording_draws(step, size)
        captions = ["" if draws.no_caption[n] else row.text(chances[n]) for n, row in zip(numbers, rows, strict=True)]
        sizes = torch.tensor([row.framing.micro_conditions for row in rows], dtype=torch.float32)
        return Batch(
            latents=torch.stack(latents),
            text=self.base.encode_captions(captions).to("cpu"),
            sizes=sizes if self.base.needs_sizes else None,
            hints=torch.stack(hints) if hints else None,
            masks=_masks(rows, [bool(draws.mirrored[n]) for n in numbers], side),
            weights=torch.tensor([float(row.known) for row in rows]),
        )


def _floats(pixels: Tensor, mirrored: bool) -> Tensor:
    pixels = pixels.float() / 255
    return pixels.flip(-1) if mirrored else pixels


def _masks(rows: list[Row], mirrored: list[bool], side: tuple[int, int]) -> Tensor | None:
    """Ones for the rows that have no mask; None where no row has."""
    if all(row.mask is None for row in rows):
        return None
    ones = torch.ones(1, *side)
    return torch.stack([ones if r.mask is None else _floats(r.mask, m) for r, m in zip(rows, mirrored, strict=True)])


def first_of(urls: list[str], config: TrainConfig) -> tuple[Survey, frozenset[str]]:
    """The first pictures of the shards that can be used, written to files for validation and previews, and the keys of
    all up to there."""
    found = Survey(unseen=config.validation.hold_out > 0)
    count = config.validation.hold_out or max(config.validation.images, config.previews.count)
    data = config.data
    sizes = bucket_sizes(data.resolution, data.buckets, data.max_aspect)
    folder = cache_folder(config) / "held"
    folder.mkdir(parents=True, exist_ok=True)
    keys = set()
    for sample in samples_of(urls, data, found.problems):
        try:
            found.held.append(_example(sample, folder, sizes))
        except DataError as error:
            found.problems.append(str(error))
        keys.add(sample.key)
        if len(found.held) == count:
            break
    return found, frozenset(keys)


def _example(sample: Sample, folder: Path, sizes: list[Size]) -> Example:
    """Raises DataError for a picture, hint or mask that cannot be used: found here, another takes its place."""
    bucket = bucket_of(sample.size, sizes)
    framing = Framing(sample.size, bucket)
    shaped(sample.picture, f"{sample.key}.{sample.ending}", framing)
    picture = _stored(sample.picture, folder, sample.ending)
    partners = {}
    for name in ("hint", "mask"):
        data = getattr(sample, name)
        if data is not None:
            image = shaped(data, f"{sample.key}.{name}", framing, MASK_PAPER)
            if name == "mask":
                framing.mask(image, f"{sample.key}.{name}")
            path = _stored(data, folder, "png")
            partners[name] = Partner(path, path.stem, measure(path, f"{sample.key}.{name}").size)
    return Example(
        name=sample.key,
        path=picture,
        caption=sample.caption,
        digest=picture.stem,
        size=sample.size,
        bucket=bucket,
        **partners,
    )


def _stored(data: bytes, folder: Path, ending: str) -> Path:
    path = folder / f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.{ending}"
    if not path.is_file() or path.stat().st_size != len(data):
        part = path.with_name(f"{path.name}.{os.getpid()}")  # another process may be writing it too
        part.write_bytes(data)
        part.replace(path)
    return path
