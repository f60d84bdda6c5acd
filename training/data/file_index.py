"""What is known of files: a hash of their content and the size of their picture, so that a large set need not be read
again each time."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scedit_core.fitting.identity import digest_of
from scedit_core.pictures.framing import Size
from scedit_core.pictures.reading import PictureFacts, measure

_UNSETTLED = 2_000_000_000  # ns: a file changed so shortly before it was read may change again with the same times


@dataclass(frozen=True)
class KnownFile:
    """digest: of the content, 32 hexadecimal digits.  facts: of the picture in it."""

    digest: str
    facts: PictureFacts

    @property
    def size(self) -> Size:
        """Width and height."""
        return self.facts.size


class FileIndex:
    """A file of JSON lines that several processes may append to; of two lines for a file the later counts.

    A line holds for as long as the file's size and times are what they were.  Where they differ the content is hashed
    again, so that touching a file changes nothing, and editing it does even where its size stays.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read_to = path, 0
        self._lines: dict[str, tuple[list, KnownFile]] = {}
        self.refresh()

    def look_up(self, path: Path) -> KnownFile:
        """What is known of the picture at `path`, from the index or from the file.

        Raises DataError for what `measure` refuses, and OSError for what cannot be opened.
        """
        key = str(path.absolute())
        stat = os.stat(path)
        # The number of the file too: another one that is moved here may bring its times along.
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        line = self._lines.get(key)
        if line is not None and line[0] == stamp:
            return line[1]
        now = time.time_ns()
        known = KnownFile(digest_of(path), measure(path, path))
        self._lines[key] = (stamp, known)
        if now - max(stamp[1], stamp[2]) > _UNSETTLED:
            self._append([key, stamp, known.digest, known.size, known.facts.remarks])
        return known

    def refresh(self) -> None:
        """Read what was appended since the last time, by whatever process."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read_to)
                data = file.read()
        except OSError:
            return
        whole = data.rfind(b"\n") + 1
        self._read_to += whole
        for line in data[:whole].split(b"\n"):
            try:
                key, stamp, digest, size, remarks = json.loads(line)
                self._lines[key] = (stamp, KnownFile(digest, PictureFacts((size[0], size[1]), tuple(remarks))))
            except (ValueError, TypeError, IndexError):
                continue  # a line that a killed process left unfinished

    def _append(self, values: list) -> None:
        line = json.dumps(values).encode() + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab", buffering=0) as file:
                file.write(line)  # one write, so that lines of several processes do not mix
        except OSError:
            return  # the index saves time, nothing else


class Seen:
    """Marks of what was looked at and found whole, in a file with one on each line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._marks = set(path.read_text("utf-8").split("\n"))
        except (OSError, UnicodeDecodeError):
            self._marks = set()

    def __contains__(self, mark: str) -> bool:
        return mark in self._marks

    def add(self, marks: Iterable[str]) -> None:
        """Remember these."""
        fresh = "".join(f"{mark}\n" for mark in dict.fromkeys(marks) if mark not in self._marks)
        with contextlib.suppress(OSError):  # it saves time, nothing else
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab", buffering=0) as file:
                file.write(fresh.encode())
