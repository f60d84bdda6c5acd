"""Captions: .txt or .caption beside a picture, or metadata.jsonl or .csv as Hugging Face's imagefolder has it."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..fitting.remarks import Remarks

SUFFIXES = (".txt", ".caption")
METADATA = ("metadata.jsonl", "metadata.csv")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decode_text(data: bytes, name: str | Path) -> str:
    """Text in UTF-8, or in UTF-16 with its mark.  Raises DataError for other encodings; `name` begins its sentence."""
    encoding = next((e for mark, e in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: expected text in UTF-8, found other bytes; save the file as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{name}: expected text in UTF-8, found zero bytes as in UTF-16; save the file as UTF-8")
    return text


def caption_files(files: Iterable[Path]) -> dict[Path, Path]:
    """The caption files among `files`, by the place of their picture without its ending; .txt before .caption, and
    small letters before capitals."""
    found: dict[Path, Path] = {}
    rank = {suffix: i for i, suffix in enumerate((*SUFFIXES, *map(str.upper, SUFFIXES)))}
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            stem = path.with_suffix("")
            other = found.get(stem)
            if other is None or rank.get(path.suffix, len(rank)) < rank.get(other.suffix, len(rank)):
                found[stem] = path
    return found


def read_caption(path: Path, lines: bool = False) -> tuple[str, ...]:
    """The captions in a file, each on one line: one, or with `lines` one for each line that is not empty.

    Raises DataError for a file that cannot be read.
    """
    try:
        text = decode_text(path.read_bytes(), path)
    except OSError as error:
        raise DataError(
            f"{path}: expected a caption that can be read, found none ({error.strerror}); check its permissions"
        ) from error
    return captions_in(text, lines)


def captions_in(text: str, lines: bool = False) -> tuple[str, ...]:
    """The captions in the text of a file: one, or with `lines` one for each line that is not empty."""
    several = [one_line(line) for line in text.splitlines() if line.strip()] if lines else []
    return tuple(several) or (one_line(text),)


def one_line(text: str) -> str:
    """The text with every run of white space made one space."""
    return " ".join(text.split())


def read_metadata(
    path: Path, problems: list[str], columns: Sequence[str] = ("text",), remarks: Remarks | None = None
) -> dict[Path, tuple[str, ...]]:
    """Captions by picture, from lines {"file_name": ..., "text": ...} or a table with such columns; names start at the
    folder of the file, and `columns` say where captions are.

    Lines that are something else, or that name no file, are added to `problems`; a table without such columns to
    `remarks`, since it may be about something else.
    """
    captions: dict[Path, tuple[str, ...]] = {}
    try:
        text = decode_text(path.read_bytes(), path)
    except (OSError, DataError) as error:
        problems.append(str(error))
        return captions
    if path.suffix == ".csv":
        names, entries = _table(text)
        if "file_name" not in names or not set(columns) & set(names):
            if remarks is not None:
                remarks.add(
                    f"tables that are not read, since they have no columns file_name and {' or '.join(columns)}",
                    "correct the first line, or name columns of captions in data.wording.columns",
                    name=path.name,
                    sentence=f"{path}: has the columns {', '.join(names)[:200] or 'none'}",
                )
            return captions
    else:
        entries = _lines(text)
    for number, entry in entries:
        name, found = entry.get("file_name"), texts_in(entry, columns)
        picture = path.parent / name if isinstance(name, str) and name else None
        if picture is None or not found:
            problems.append(
                f'{path} line {number}: expected {{"file_name": "a.png", "{columns[0]}": "a caption"}}, found '
                "something else; correct that line"
            )
        elif not picture.is_file():
            problems.append(f"{path} line {number}: expected a picture {name}, found no such file; correct that line")
        else:
            captions[picture] = found
    return captions


def texts_in(entry: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """The captions in the columns of a row, or of a JSON object: texts, and lists of texts."""
    values = [entry.get(column) for column in columns]
    several = [each for value in values for each in (value if isinstance(value, list) else [value])]
    found = tuple(one_line(each) for each in several if isinstance(each, str))
    return tuple(text for text in found if text) or found[:1]


def _lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of lines of JSON; an empty one for a line that is something else."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        yield number, entry if isinstance(entry, dict) else {}


def _table(text: str) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """The columns of a table, and its rows with their line; an empty one where it cannot be read further."""
    table = csv.DictReader(io.StringIO(text), skipinitialspace=True)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            for row in table:
                yield table.line_num, row
        except csv.Error:
            yield table.line_num, {}

    try:
        return [str(name) for name in table.fieldnames or []], rows()
    except csv.Error:
        return [], rows()
