"""A training set in folders: encoded once, read back row by row, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from scedit_core.fitting.chance import generator_for
from scedit_core.fitting.order import Order

from ..bases.base_model import BaseModel
from ..config import TrainConfig
from .cache import DamagedEntry
from .encoding import Encoder
from .examples import Example
from .filling import fill_cache
from .survey import Survey, cache_folder, check_survey, survey
from .training_set import Batch, TrainingSet, remarks_on_captions, remarks_on_sizes

_AHEAD = 2  # batches that are read while a step is at work, so that one slow disk access is not waited for
_LOOKED = 5000  # files, half a minute's worth where they are new


class FolderSet(TrainingSet):
    """Examples of folders; everything that chance decides is drawn from (seed, step) for the whole batch."""

    def __init__(self, base: BaseModel, config: TrainConfig, encoder: Encoder, found: Survey) -> None:
        super().__init__(base, config, encoder)
        self.examples = [*found.own, *found.prior]
        self.held, self.unseen, self.problems = found.held, found.unseen, found.problems
        self.remarks = found.all_remarks()
        remarks_on_captions(base, (example.caption for example in [*self.examples, *self.held]), self.remarks)
        self._rows = [
            (i, size) for i, example in enumerate(self.examples) for size in example.sizes or (example.bucket,)
        ]
        self.buckets = sorted({size for _, size in self._rows})
        place = {bucket: i for i, bucket in enumerate(self.buckets)}
        groups: list[list[int]] = [[] for _ in self.buckets]
        rounds, _ = found.rounds()
        for row, (i, size) in enumerate(self._rows):
            groups[place[size]] += [row] * (self.examples[i].repeats * (rounds if i < len(found.own) else 1))
        self.flips = any(example.flip for example in self.examples)
        self._masked = any(example.masked for example in self.examples)
        self.round_rows = sum(map(len, groups))
        self._order = Order(groups, config.loop.seed)
        rows = dict(zip(self.buckets, groups, strict=True))
        counts = {bucket: len(set(group)) for bucket, group in rows.items()}
        remarks_on_sizes(counts, {b: len(group) for b, group in rows.items()}, config.loop.batch, self.remarks)
        self._reader = ThreadPoolExecutor(1, "reading")
        self._ahead: dict[tuple, Future[Batch]] = {}

    @classmethod
    def prepared(
        cls, base: BaseModel, config: TrainConfig, say: Callable[..., None], process: tuple[int, int]
    ) -> FolderSet:
        """See `open_data`."""

        def looked(done: int, total: int) -> None:
            if done % _LOOKED == 0:
                say("note", message=f"looked at {done} of {total} files")

        found = survey(config, process, looked)
        check_survey(found, config)
        encoder = Encoder(base, config, cache_folder(config))
        fill_cache(encoder, found, say, process)
        check_survey(found, config)
        return cls(base, config, encoder, found)

    def batch(self, step: int, size: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """See `TrainingSet.batch`.  The next steps' rows are read meanwhile, by a thread."""
        wanted = (step, size, part)
        following = [(step + n, size, part) for n in range(_AHEAD + 1)]
        self._ahead = {each: self._ahead.get(each) or self._reader.submit(self._load, *each) for each in following}
        loaded = self._ahead.pop(wanted)
        try:
            batch = loaded.result()
        except DamagedEntry:
            self._mend(self.examples_of(step, size)[part[0] :: part[1]])
            batch = self._load(*wanted)
        return batch

    def examples_of(self, step: int, size: int) -> list[Example]:
        """The examples of the whole batch of `size` rows of `step`, with the captions and the looks that it shows."""
        rows = [self._rows[row] for row in self._order.rows(step, size)]
        examples = [replace(self.examples[i], bucket=bucket) for i, bucket in rows]
        examples = [e.worded(chance) for e, chance in zip(examples, self.wording_draws(step, size), strict=True)]
        drawn = {
            count: torch.randint(count, (size,), generator=generator_for(self.config.loop.seed, step, "looks")).tolist()
            for count in {e.looks.count for e in examples if e.looks is not None}
        }
        return [e if e.looks is None else e.looking(drawn[e.looks.count][row]) for row, e in enumerate(examples)]

    def _load(self, step: int, size: int, part: tuple[int, int]) -> Batch:
        rows = range(part[0], size, part[1])
        examples = self.examples_of(step, size)[part[0] :: part[1]]
        width, height = examples[0].bucket
        draws = self.draws(step, size, (self.base.vae.config.latent_channels, height // 8, width // 8))
        captions = ["" if draws.no_caption[r] else e.caption for r, e in zip(rows, examples, strict=True)]
        latents, hints, masks = [], [], []
        for row, example in zip(rows, examples, strict=True):
            mirrored = example.flip and bool(draws.mirrored[row])
            hint = None if self._encoder.hints is None else self._encoder.hint(example)
            hint = hint.flip(-1) if mirrored and hint is not None else hint
            moments = self._encoder.moments(example, mirrored)
            latent, hint = self._drawn(step, row, draws, moments, hint, example.hint is not None)
            latents.append(latent)
            if hint is not None:
                hints.append(hint)
            if self._masked:
                mask = self._encoder.mask(example)
                masks.append(mask.flip(-1) if mirrored else mask)
        return self._stacked(examples, latents, self._encoder.texts(captions), hints, masks)
