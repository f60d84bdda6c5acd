"""Filling the cache with a whole set, by one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from scedit_core.errors import DataError

from .encoding import Encoder
from .examples import Example
from .reading_ahead import read_ahead
from .survey import Survey, own_part_first

_SAY_EVERY = 32  # hits, of which a thousand take a second


def fill_cache(encoder: Encoder, found: Survey, say: Callable[..., None], process: tuple[int, int] = (0, 1)) -> None:
    """Encode what of `found` is not in the cache; examples that cannot be read go from it to its problems.

    say: told "caching" with done, total, hits and misses, in pictures and captions.  process: rank and count; each
    begins with its own part and then helps the others, so that none needs to wait for another's word.
    """
    own = set(found.own)
    trained = (form for example in (*found.own, *found.prior) for form in example.forms())
    examples = [*trained, *(example for example in found.held if example not in own)]
    held = {example.caption for example in found.held}
    captions = sorted(held.union({""}, *(example.texts() for example in (*found.own, *found.prior))))
    progress = _Progress(len(examples) + len(captions), say)
    for caption in own_part_first(captions, process):
        hit = encoder.is_text_cached(caption)
        if not hit:
            encoder.encode_text(caption)
        progress.count(hit)
    bad = {}
    misses = _misses(encoder, own_part_first(examples, process), progress)
    for example, sources in read_ahead(encoder.read, misses):
        try:
            encoder.encode(example, sources.result())
        except DataError as error:
            bad[example.path] = str(error)
        progress.count(False)
    if encoder.hints is not None:
        encoder.hints.release()
    found.leave_out(bad)
    for example in (*found.own, *found.prior, *found.held):
        if encoder.blank_hint(example):
            found.remark_on_blank_hint(example.path if example.hint is None else example.hint.path)


class _Progress:
    def __init__(self, total: int, say: Callable[..., None]) -> None:
        self._total, self._say = total, say
        self._hits = self._misses = 0

    def count(self, hit: bool) -> None:
        self._hits, self._misses = self._hits + hit, self._misses + (not hit)
        done = self._hits + self._misses
        if not hit or self._hits % _SAY_EVERY == 0 or done == self._total:
            self._say("caching", done=done, total=self._total, hits=self._hits, misses=self._misses)


def _misses(encoder: Encoder, examples: Iterable[Example], progress: _Progress) -> Iterator[Example]:
    for example in examples:
        if encoder.is_cached(example):
            progress.count(True)
        else:
            yield example
