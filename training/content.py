"""Digests of what a configuration names, by which a run is known wherever its files lie."""

from __future__ import annotations

import os
from pathlib import Path

from scedit_core.fitting.identity import digest, digest_of

from .config import TrainConfig
from .data.shard_reading import expand_shards


def files_of(config: TrainConfig, base: str, teacher: str | None) -> dict[str, str | None]:
    """Digests of what a run begins with, by key of the configuration: `base` and `teacher` as given, and files."""
    condition = config.data.condition
    named = {
        "tuner.start_from": config.tuner.start_from,
        "data.condition.detector": getattr(condition, "detector", None),
        "data.condition.persons": getattr(condition, "persons", None),
    }
    return {"base": base, "teacher": teacher, **{key: _content_at(path) for key, path in named.items()}}


def shards_of(config: TrainConfig) -> list[str] | None:
    """A digest of each shard's name and size, since all that is in them is not read for it; None for folders."""
    if config.data.shards is None:
        return None
    urls = expand_shards(config.data.shards)
    sized = ([os.path.basename(url), os.path.getsize(url)] if os.path.isfile(url) else [url] for url in urls)
    return sorted(digest([each]) for each in sized)


def _content_at(path: Path | None) -> str | None:
    """A digest of a file, or of the files of a folder with their names."""
    if path is None:
        return None
    if path.is_dir():
        return digest([[file.name, digest_of(file)] for file in sorted(path.iterdir()) if file.is_file()])
    return digest_of(path) if path.is_file() else str(path)
