"""Captions: .txt or .caption beside a picture, or metadata.jsonl as Hugging Face's imagefolder has it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from ..fitting.errors import DataError

SUFFIXES = (".txt", ".caption")
METADATA = "metadata.jsonl"
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


def read_caption(picture: Path) -> str | None:
    """The text of the file beside `picture`, on one line; None where there is no such file.

    Raises DataError for a file that cannot be read.
    """
    for suffix in SUFFIXES:
        path = picture.with_suffix(suffix)
        if path.is_file():
            try:
                return one_line(decode_text(path.read_bytes(), path))
            except OSError as error:
                raise DataError(
                    f"{path}: expected a caption that can be read, found none ({error.strerror}); check its permissions"
                ) from error
    return None


def one_line(text: str) -> str:
    """The text with every run of white space made one space."""
    return " ".join(text.split())


def read_metadata(path: Path, problems: list[str]) -> dict[Path, str]:
    """Captions by picture, from lines {"file_name": ..., "text": ...}; names start at the folder of the file.

    Lines that are something else, or that name no file, are added to `problems`.
    """
    captions: dict[Path, str] = {}
    try:
        text = decode_text(path.read_bytes(), path)
    except (OSError, DataError) as error:
        problems.append(str(error))
        return captions
    for number, name, caption in _entries(text):
        picture = path.parent / name if name else None
        if picture is None or caption is None:
            problems.append(
                f'{path} line {number}: expected {{"file_name": "a.png", "text": "a caption"}}, found something else; '
                "correct that line"
            )
        elif not picture.is_file():
            problems.append(f"{path} line {number}: expected a picture {name}, found no such file; correct that line")
        else:
            captions[picture] = one_line(caption)
    return captions


def _entries(text: str) -> Iterator[tuple[int, str | None, str | None]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        entry = entry if isinstance(entry, dict) else {}
        name, caption = entry.get("file_name"), entry.get("text")
        yield number, name if isinstance(name, str) else None, caption if isinstance(caption, str) else None
