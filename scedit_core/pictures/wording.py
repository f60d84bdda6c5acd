"""What the captions of a picture say in a step: one of several, wildcards, and tags in another order."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_CHOICE = re.compile(r"\{([^{}]*)\}")
_DEPTH = 20  # of wildcards within wildcards
# "\{" and its like are the character itself; meanwhile it is one that no caption has.
_PLAIN = {"\\{": "\ue000", "\\}": "\ue001", "\\|": "\ue002"}


@dataclass(frozen=True)
class Wording:
    """How captions are worded anew; see training/config_data.py, WordingConfig."""

    columns: tuple[str, ...] = ("text",)
    lines: bool = False
    wildcards: bool = False
    shuffle_tags: bool = False
    keep_tags: int = 0
    drop_tags: float = 0.0
    separator: str = ","
    variants: int = 8

    @property
    def of_tags(self) -> bool:
        """Whether captions are taken apart into tags."""
        return self.shuffle_tags or self.drop_tags > 0

    def is_varied(self, text: str) -> bool:
        """Whether chance changes this caption."""
        movable = len(self.tags(text)) - self.keep_tags
        dropped, moved = self.drop_tags > 0 and movable > 0, self.shuffle_tags and movable > 1
        return moved or dropped or (self.wildcards and _CHOICE.search(_hidden(text)) is not None)

    def tags(self, text: str) -> list[str]:
        """The tags of a caption."""
        return [tag for each in text.split(self.separator) if (tag := each.strip())]

    def fixed(self, text: str) -> str:
        """A caption as it is written, of wildcards the first choice."""
        return resolved(text, lambda choices: choices[0]) if self.wildcards else text

    def variant(self, text: str, number: int) -> str:
        """The text that a caption is the `number`-th time: the same for the same text and number, whatever the run.

        Of each wildcard the variants have every choice equally often, as far as their number allows.
        """
        chance = random.Random(f"{number}/{text}")
        if self.wildcards:
            written, counted = text, itertools.count()

            def chosen(choices: list[str]) -> str:
                order = random.Random(f"wildcard {next(counted)}/{written}")
                places = sorted((order.random(), place) for place in range(self.variants))
                return choices[places[number % self.variants][1] % len(choices)]

            text = resolved(text, chosen)
        if not self.of_tags:
            return text
        tags = self.tags(text)
        kept, others = tags[: self.keep_tags], tags[self.keep_tags :]
        if self.shuffle_tags:
            others = [tag for _, tag in sorted((chance.random(), tag) for tag in others)]
        others = [tag for tag in others if chance.random() >= self.drop_tags]
        return f"{self.separator} ".join([*kept, *others])


_AS_WRITTEN = Wording()


@dataclass(frozen=True)
class Captions:
    """The captions of a picture.

    prefix: put before each of them, and never moved or dropped.  texts: the captions as they are written.
    """

    prefix: str = ""
    texts: tuple[str, ...] = ("",)
    wording: Wording = field(default=_AS_WRITTEN)

    @property
    def plain(self) -> str:
        """The first caption as it is written, of wildcards the first choice: what is measured and drawn."""
        return self._whole(self.wording.fixed(self.texts[0]))

    @property
    def is_varied(self) -> bool:
        """Whether steps show several texts."""
        return len(self.texts) > 1 or self.wording.is_varied(self.texts[0])

    @property
    def told(self) -> str | list:
        """By which they are known, as JSON has it: the text, or the prefix and what varies."""
        return [self.prefix, *self.texts] if self.is_varied else self.plain

    def drawn(self, chance: float) -> str:
        """The text for a number from 0 to 1: every caption has the same share, and of each every variant."""
        place = chance * len(self.texts)
        i = min(int(place), len(self.texts) - 1)
        text = self.texts[i]
        if not self.wording.is_varied(text):
            return self._whole(self.wording.fixed(text))
        number = min(int((place - i) * self.wording.variants), self.wording.variants - 1)
        return self._whole(self.wording.variant(text, number))

    def all(self) -> Iterator[str]:
        """Every text that may be drawn, and the plain one; some may come twice."""
        yield self.plain
        for text in self.texts:
            if self.wording.is_varied(text):
                yield from (self._whole(self.wording.variant(text, k)) for k in range(self.wording.variants))
            else:
                yield self._whole(self.wording.fixed(text))

    def _whole(self, text: str) -> str:
        return f"{self.prefix} {text}".strip()


def resolved(text: str, choose: Callable[[list[str]], str]) -> str:
    """A caption whose wildcards {a|b} are replaced by what `choose` takes of a list of choices, the innermost first.

    Braces after a backslash, and those that do not close, stay as they are.
    """
    text = _hidden(text)
    for _ in range(_DEPTH):
        text, count = _CHOICE.subn(lambda found: choose(found[1].split("|")), text)
        if not count:
            break
    for written, hidden in _PLAIN.items():
        text = text.replace(hidden, written[1])
    return " ".join(text.split())


def _hidden(text: str) -> str:
    for written, hidden in _PLAIN.items():
        text = text.replace(written, hidden)
    return text
