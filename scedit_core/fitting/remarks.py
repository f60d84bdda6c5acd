"""What a user should know of a run before its first step: one list, told alike wherever a run is prepared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_NAMED = 3
# What is said of a hint that shows nothing, and what to do about it.
BLANK_HINTS = (
    "hints of one colour, from which nothing can be learned",
    "make them anew, or remove them with their pictures",
)


@dataclass
class Remark:
    """what:   what is the case, such as "enlarged, which looks soft".
    advice: what to do about it, "" where nothing needs to be done.
    said:   a sentence on each file that it is said of, and that file's short name; none where it is said of the run.
    """

    what: str
    advice: str = ""
    said: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The first of the files."""
        return list(self.said.values())[:_NAMED]

    def __str__(self) -> str:
        more = ", ..." if len(self.said) > _NAMED else ""
        counted = f": {len(self.said)} ({', '.join(self.names)}{more})" if self.said else ""
        return f"{self.what}{counted}{'; ' if self.advice else ''}{self.advice}"

    def values(self) -> dict[str, Any]:
        """As an event has it: what, count (None for the run), the first names, advice, and text, all in one line."""
        count = len(self.said) or None
        return {"what": self.what, "count": count, "names": self.names, "advice": self.advice, "text": str(self)}


def printable(text: str) -> str:
    """Text as UTF-8 can have it: names of files that are no UTF-8 get escapes for their bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class Remarks:
    """Remarks, one for each `what`; those that ask for something come first."""

    def __init__(self) -> None:
        self._remarks: dict[str, Remark] = {}

    def add(self, what: str, advice: str = "", *, name: str = "", sentence: str = "") -> None:
        """Say something of the run, or of the file `name`, with a longer `sentence` on it where there is one.

        The same sentence counts once.
        """
        remark = self._remarks.setdefault(what, Remark(printable(what), printable(advice)))
        if name:
            remark.said[printable(sentence or name)] = printable(name)

    def take(self, others: Iterable[Remark]) -> None:
        """Add the remarks of another list."""
        for other in others:
            self._remarks.setdefault(other.what, Remark(other.what, other.advice)).said.update(other.said)

    def __iter__(self) -> Iterator[Remark]:
        return iter(sorted(self._remarks.values(), key=lambda remark: not remark.advice))

    def __len__(self) -> int:
        return len(self._remarks)
