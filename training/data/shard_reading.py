"""Rows of batches from tar shards, read by webdataset in the workers of a DataLoader, split by rank and worker."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from scedit_core.conditions.fitting import fitting_of
from scedit_core.conditions.pictures import eight_bits
from scedit_core.errors import DataError, in_short
from scedit_core.fitting.chance import generator_for
from scedit_core.pictures.captions import captions_in, decode_text, texts_in
from scedit_core.pictures.framing import Framing, Size, bucket_of, bucket_sizes
from scedit_core.pictures.reading import FOREIGN, MASK_PAPER, SUFFIXES, measure, read_picture
from scedit_core.pictures.sources import wording_of
from scedit_core.pictures.wording import Captions

from ..config_data import DataConfig

_SHUFFLED = 256  # samples among which the next is drawn, beside the order of shards: some 50 MB for each worker
_PARTS, _CAPTIONS = ("hint", "mask"), ("txt", "caption")
_NAMED = 20  # problems that a worker keeps until they are told


@dataclass
class Sample:
    """A picture of a shard with what belongs to it, not yet decoded.

    key: shard and name, for messages.  size: of the picture as it is looked at.
    caption: the first of `words`, which are None where there is one that never changes.  texts: all, as written.
    """

    key: str
    picture: bytes
    ending: str
    size: Size
    caption: str
    hint: bytes | None = None
    mask: bytes | None = None
    words: Captions | None = None
    texts: tuple[str, ...] = ()


@dataclass
class Row:
    """A picture ready to be encoded: uint8 [3,H,W], its hint [3,H,W], its mask [1,h,w] as large as the latents.

    key:   as of its sample.
    known: False for a picture that turned out to be damaged; it is black then.
    """

    picture: Tensor
    caption: str
    framing: Framing
    hint: Tensor | None = None
    mask: Tensor | None = None
    key: str = ""
    known: bool = True
    words: Captions | None = None

    def text(self, chance: float) -> str:
        """The caption that a number from 0 to 1 draws."""
        return self.caption if self.words is None else self.words.drawn(chance)


@dataclass
class RowBatch:
    """Rows of one bucket, and the problems that were met on the way to them.  No rows: the shards hold none."""

    rows: list[Row]
    problems: list[str] = field(default_factory=list)


def expand_shards(shards: str | list[str], base: str = "data.shards") -> list[str]:
    """Paths and addresses with their braces expanded.  Raises DataError where there are none, or files are missing."""
    patterns = [shards] if isinstance(shards, str) else shards
    found = [url for pattern in patterns for url in webdataset.shardlists.expand_urls(pattern)]
    missing = [url for url in found if ":" not in url and not Path(url).is_file()]
    if missing or not found:
        what = f"{len(missing)} of {len(found)} missing ({', '.join(missing[:3])})" if found else "none"
        raise DataError(f"{base}: expected tar files, found {what}; correct the pattern")
    return found


def samples_of(urls: Iterable[str], config: DataConfig, problems: list[str]) -> Iterator[Sample]:
    """The usable samples of shards in the order of the files; what is not usable is added to `problems`.

    Members of a sample have one name and differ in what follows its first dot: a picture (png, jpg, ...), its caption
    (txt, caption, or the "text" of json), and maybe hint.png and mask.png.
    """

    def bad(error: Exception) -> bool:
        problems.append(f"shards: expected whole tar files, found a damaged one ({in_short(error, 150)}); replace it")
        return True

    sources = ({"url": url} for url in urls)
    for members in webdataset.tariterators.tarfile_samples(sources, handler=bad):
        key = f"{members['__url__']}/{members['__key__']}"
        problems += _unread(key, members)
        try:
            sample = _sample(key, members, config)
        except DataError as error:
            problems.append(str(error))
        else:
            if sample is not None:
                yield sample


def _unread(key: str, members: dict[str, Any]) -> list[str]:
    """A sentence on each picture that is not read, as webdataset joins it to another sample or knows no such ending."""
    plain = any(f".{ending}" in SUFFIXES for ending in members)
    found = []
    for ending in sorted(members):
        stem, _, kind = ending.rpartition(".")
        own = not plain or any(f"{stem}.{name}" in members for name in _CAPTIONS)  # and no further part of that sample
        if f".{kind}" in FOREIGN:
            found.append(f"{key}.{ending}: expected png, jpg, webp, ..., found {kind}; save it as PNG or JPEG")
        elif stem and own and f".{kind}" in SUFFIXES and stem.split(".")[-1] not in _PARTS:
            found.append(
                f"{key}.{ending}: expected a name without dots, found one that ends at its first dot, where it joins "
                f"the sample {Path(key).name}; rename it"
            )
    if not found and not plain and any(name in members for name in _CAPTIONS):
        found.append(f"{key}: expected a picture beside its caption, found none; add {Path(key).name}.png to the shard")
    return found


def _sample(key: str, members: dict[str, Any], config: DataConfig) -> Sample | None:
    """None where the members are no picture.  Raises DataError for what cannot be used."""
    endings = [ending for ending in members if f".{ending}" in SUFFIXES]
    if not endings:
        return None
    ending = endings[0]
    parts = {ending.split(".")[0]: data for ending, data in members.items() if ending.startswith(("hint.", "mask."))}
    wording = wording_of(config.wording)
    texts: tuple[str, ...] = ()
    for name in _CAPTIONS if config.captions != "none" else ():
        if not texts and name in members:
            texts = captions_in(decode_text(members[name], f"{key}.{name}"), wording.lines)
    if not texts and "json" in members and config.captions != "none":
        try:
            told = json.loads(members["json"])
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{key}.json: expected JSON with {' or '.join(wording.columns)}, found something else; correct it, or "
                "set data.captions to none"
            ) from error
        texts = texts_in(told, wording.columns) if isinstance(told, dict) else ()
    if not texts and config.captions == "required":
        raise DataError(f"{key}: expected a caption ({key}.txt), found none; write it or set data.captions to optional")
    words = Captions(config.caption, texts or ("",), wording)
    if config.condition is not None and config.condition.type == "custom" and "hint" not in parts:
        raise DataError(f"{key}: expected a hint ({key}.hint.png), found none; add it to the shard")
    facts = measure(io.BytesIO(members[ending]), f"{key}.{ending}")
    partners = parts.get("hint"), parts.get("mask")
    varied = words if words.is_varied else None
    return Sample(key, members[ending], ending, facts.size, words.plain, *partners, varied, texts)


class ShardRows(IterableDataset):
    """Endless batches of rows; in a worker, that worker's own.

    urls:      all shards.  rank, count: of the process; it reads urls[rank::count] of each epoch's order.
    rows:      of a batch.  first: the number of the batch to begin with; those before it are gone through without
               decoding them.  excluded: keys of samples that are held out.

    Which samples make up batch n depends on (seed, rank, count, number of workers, rows) and n alone.
    """

    def __init__(
        self,
        urls: list[str],
        config: DataConfig,
        seed: int,
        part: tuple[int, int],
        rows: int,
        first: int = 0,
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        self._urls, self._config, self._seed, self._part = urls, config, seed, part
        self._rows, self._first, self._excluded = rows, first, excluded
        self._buckets = bucket_sizes(config.resolution, config.buckets, config.max_aspect)
        self._fitting = None if config.condition is None else fitting_of(config.condition.values())

    def __iter__(self) -> Iterator[RowBatch]:
        info = get_worker_info()
        count = info.num_workers if info else 1
        worker = ((info.id if info else 0) + self._first) % count  # the DataLoader asks its worker 0 first
        passed = len(range(worker, self._first, count))
        problems: list[str] = []
        for samples in itertools.islice(self._batches(worker, count, problems), passed, None):
            bucket = bucket_of(samples[0].size, self._buckets)
            rows = [self._row(sample, bucket, problems) for sample in samples]
            yield RowBatch(rows, problems[:_NAMED])
            problems.clear()
        yield RowBatch([], problems[:_NAMED])

    def _batches(self, worker: int, count: int, problems: list[str]) -> Iterator[list[Sample]]:
        waiting: dict[Size, list[Sample]] = defaultdict(list)
        rank, ranks = self._part
        barren = 0  # epochs in a row in which this worker's shards had no picture; the next ones have others
        for epoch in itertools.count():
            order = torch.randperm(len(self._urls), generator=generator_for(self._seed, epoch, "order of shards"))
            mine = [self._urls[i] for i in order.tolist()][rank::ranks][worker::count]
            chance = random.Random(f"{self._seed}/{epoch}/{rank}/{worker}")
            barren += 1
            for sample in _shuffled(samples_of(mine, self._config, problems), chance):
                if sample.key in self._excluded:
                    continue
                barren = 0
                bucket = bucket_of(sample.size, self._buckets)
                waiting[bucket].append(sample)
                if len(waiting[bucket]) == self._rows:
                    yield waiting.pop(bucket)
            if barren >= 3 * len(self._urls):
                return
            del problems[_NAMED:]

    def _row(self, sample: Sample, bucket: Size, problems: list[str]) -> Row:
        framing = Framing(sample.size, bucket)
        row = Row(
            torch.zeros(3, bucket[1], bucket[0], dtype=torch.uint8),
            sample.caption,
            framing,
            key=sample.key,
            known=False,
            words=sample.words,
        )
        try:
            picture = framing.apply(shaped(sample.picture, f"{sample.key}.{sample.ending}", framing))
            if sample.hint is not None and self._fitting is not None:
                image = shaped(sample.hint, f"{sample.key}.hint", framing, None)
                row.hint = eight_bits(framing.hint(image, self._fitting))
            if sample.mask is not None:
                name = f"{sample.key}.mask"
                row.mask = _bytes(framing.mask(shaped(sample.mask, name, framing, MASK_PAPER), name))
        except DataError as error:
            problems.append(str(error))
            return row
        row.picture, row.known = _bytes(picture), True
        return row


def row_batches(dataset: ShardRows, workers: int) -> Iterator[RowBatch]:
    """The batches of `dataset`, decoded by that many other processes; by this one where it is 0."""
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None)
    return iter(loader)


def shaped(data: bytes, name: str, framing: Framing, paper: str | None = "white") -> Image.Image:
    """A picture, hint or mask of a sample as it is.  Raises DataError where it has not the shape of its picture."""
    image = read_picture(io.BytesIO(data), name, paper)
    if not framing.fits(image.size):
        raise DataError(f"{name}: expected the shape of its picture {framing.source}, found {image.size}; make it anew")
    return image


def _bytes(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image, np.uint8))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _shuffled(samples: Iterator[Sample], chance: random.Random) -> Iterator[Sample]:
    """Each sample drawn from the next `_SHUFFLED`."""
    return webdataset.filters.shuffle(_SHUFFLED, initial=_SHUFFLED, rng=chance)(samples)
