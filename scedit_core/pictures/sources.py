"""The folders that a run is told to read, each with what is said of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..fitting.settings import Settings
from .wording import Wording

OWN, PRIOR, HELD = "own", "prior", "held"


@dataclass(frozen=True)
class Source:
    """A folder of pictures.

    key:        of the configuration that names it.
    role:       OWN, PRIOR (pictures of the subject's class) or HELD (of `validation.folder`).
    label:      a short name, unlike that of any other.
    captions:   "required", "optional" or "none".
    prefix:     put before every caption.
    resolution: the side of a square with the area to train at, in pixels.
    repeats:    how often each picture stands in a round; with `from_names`, those below a folder named 10_something
                ten times as often.
    weight:     of the loss of its pictures.
    flip:       whether a step may mirror them.  looks: what other looks they have, None for none.
    alone:      whether the run reads no other folder, so that names of pictures are as they always were.
    """

    key: str
    role: str
    folder: Path
    label: str
    captions: str
    prefix: str
    wording: Wording
    resolution: int
    repeats: int = 1
    from_names: bool = False
    weight: float = 1.0
    hints: Path | None = None
    masks: Path | None = None
    flip: bool = False
    looks: Any = None
    alone: bool = True


def sources_of(config: Settings) -> list[Source]:
    """The folders of a run: `data.folder` or `data.folders`, `data.prior.folder` and `validation.folder`.

    Raises DataError for a folder that is named twice, and for prior pictures beside ready hints.
    """
    data = config.data
    if data.prior is not None and data.hints is not None:
        raise DataError(
            f"{data.prior.folder}: expected prior pictures or ready hints, found both; leave out data.prior, or "
            "data.hints, so that hints are made of all pictures"
        )
    wording = wording_of(data.wording)
    common = {"captions": data.captions, "wording": wording, "resolution": data.resolution}
    held = {**common, "prefix": data.caption, "hints": data.hints, "masks": data.masks}
    common |= {"flip": data.flip, "looks": data.looks}
    own = {**common, "prefix": data.caption, "hints": data.hints, "masks": data.masks}
    told = {"repeats": data.repeats, "from_names": data.repeats_from_names}
    sources = []
    if data.folder is not None:
        sources.append(Source("data.folder", OWN, data.folder, "", **own, **told))
    for i, (entry, label) in enumerate(zip(data.folders, _labels(data.folders), strict=True)):
        said = {
            "captions": data.captions if entry.captions is None else entry.captions,
            "wording": wording if entry.wording is None else wording_of(entry.wording),
            "resolution": entry.resolution or data.resolution,
            "prefix": ("" if entry.prior else data.caption) if entry.caption is None else entry.caption,
            "repeats": data.repeats * entry.repeats,
            "flip": data.flip if entry.flip is None else entry.flip,
            "looks": data.looks if entry.looks is None else entry.looks or None,
            "from_names": data.repeats_from_names,
        }
        role = PRIOR if entry.prior else OWN
        key = f"data.folders.{i}.folder"
        source = Source(
            key,
            role,
            entry.folder,
            label,
            **said,
            weight=entry.weight,
            hints=entry.hints,
            masks=entry.masks,
            alone=False,
        )
        sources.append(source)
    if data.prior is not None:
        prior = data.prior
        sources.append(
            Source(
                "data.prior.folder",
                PRIOR,
                prior.folder,
                "",
                **common,
                prefix="",
                weight=prior.weight,
                from_names=data.repeats_from_names,
            )
        )
    _refuse_twins(sources)
    if config.validation.folder is not None:
        sources.append(Source("validation.folder", HELD, config.validation.folder, "", **held))
    return sources


def wording_of(told: Any) -> Wording:
    """`Wording` of what a configuration says, or of nothing."""
    if told is None:
        return Wording()
    return Wording(**{name: tuple(v) if isinstance(v, list) else v for name, v in told.values().items()})


def _labels(folders: list) -> list[str]:
    """A name for each: that of the folder, with a number where two have the same."""
    names = [entry.folder.name or str(entry.folder) for entry in folders]
    counted = Counter(names)
    return [name if counted[name] == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


def _refuse_twins(sources: list[Source]) -> None:
    seen: dict[Path, Source] = {}
    for source in sources:
        other = seen.setdefault(source.folder.resolve(), source)
        if other is not source:
            raise DataError(
                f"{source.key}: expected each folder once, found {source.folder} in {other.key} too; remove one, and "
                "set repeats to show its pictures more often"
            )
