"""Finding pictures with their captions, hints and masks in folders.  Nothing is decoded here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import DataError
from ..fitting.remarks import Remarks
from ..fitting.settings import Settings
from .captions import METADATA, caption_files, one_line, read_caption, read_metadata
from .captions import SUFFIXES as CAPTION_SUFFIXES
from .reading import FOREIGN, SUFFIXES
from .sources import HELD, OWN, PRIOR, Source, sources_of
from .wording import Captions, Wording

__all__ = ["HELD", "OWN", "PRIOR", "Candidate", "Found", "find_candidates"]

CHECK_SHEET, CHECK_TEXT = "check.jpg", "check.txt"  # what `check` leaves in a run folder
_THUMBNAILS = ("@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin")  # of NAS, macOS and Windows
# What lies beside pictures and is none.
_BESIDE = (".json", ".jsonl", ".yaml", ".yml", ".toml", ".csv", ".tsv", ".parquet", ".md", ".html", ".log", ".db")
_BESIDE += (
    ".npz",
    ".npy",
    ".pt",
    ".pth",
    ".ckpt",
    ".safetensors",
    ".zip",
    ".tar",
    ".gz",
    ".7z",
    ".py",
    ".ini",
    ".lock",
    ".tmp",
    ".part",
)
_REPEATED = re.compile(r"(\d+)_(.*)")  # a folder of sd-scripts: how often, and the class of its pictures


@dataclass(frozen=True)
class Candidate:
    """A picture that may be trained on, before anybody looked into it.

    name:     its place in its folder without the ending, such as "dogs/0001"; of several folders, with their name.
    source:   the folder.  repeats: how often it stands in a round.
    captions: None where it has none, not even a text that is put before all of them.
    """

    name: str
    path: Path
    source: Source
    captions: Captions | None
    hint: Path | None = None
    mask: Path | None = None
    repeats: int = 1

    @property
    def role(self) -> str:
        """Of its folder."""
        return self.source.role

    @property
    def caption(self) -> str | None:
        """The first of its captions as it is written, with the text that is put before it."""
        return None if self.captions is None else self.captions.plain


@dataclass
class Found:
    """candidates: sorted by name.  problems: files that cannot be used, a sentence each.  remarks: what a user may
    want to know of files that are used or ignored.  uncaptioned: pictures that lack the caption they need."""

    candidates: list[Candidate] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)
    uncaptioned: list[Path] = field(default_factory=list)


def find_candidates(config: Settings) -> Found:
    """The pictures of all folders that a run reads, paired by stem.

    Raises DataError for a folder that is missing, named twice or holds no pictures, for prior pictures beside ready
    hints, and for captions without tags where tags are to be moved or dropped.
    """
    found, sources = Found(), sources_of(config)
    beside = [path for source in sources for path in (source.folder, source.hints, source.masks)]
    taken = [config.data.cache, config.run_folder, *beside]
    pictures: list[tuple[Source, dict[str, Path]]] = []
    for source in sources:
        walked = list(_walk(source.folder, source.key, taken, found.remarks))
        named = _by_stem(source.folder, walked, found.problems)
        if not named:
            kinds = ", ".join(SUFFIXES)
            raise DataError(
                f"{source.folder}: expected images ({kinds}), found none; put pictures into the folder or {source.key}"
            )
        pictures.append((source, named))
        _tell_unread(walked, found)
        files, told = caption_files(walked), _captions(walked, found, source)
        for name, path in named.items():
            _add(found, source, name, path, files.get(path.with_suffix("")), told.get(path))
        texts = {text for c in found.candidates if c.source is source and c.captions for text in c.captions.texts}
        refuse_tagless(source.folder, source.wording, texts)
    for key in ("hint", "mask"):
        for folder in dict.fromkeys(folder for s in sources if (folder := getattr(s, f"{key}s")) is not None):
            partners = _by_stem(folder, list(_walk(folder, f"data.{key}s", [], found.remarks)), found.problems)
            _pair(found, key, folder, partners, [each for each in pictures if getattr(each[0], f"{key}s") == folder])
    found.candidates = [c if c.source.alone else _named(c) for c in found.candidates]
    found.candidates.sort(key=lambda c: (c.role, c.name))
    return found


def _named(candidate: Candidate) -> Candidate:
    return replace(candidate, name=f"{candidate.source.label}/{candidate.name}")


def _walk(folder: Path, key: str, taken: Iterable[Path | None], remarks: Remarks) -> Iterator[Path]:
    """All files below `folder` in order, but for hidden ones, for folders that are `taken` by something else, and for
    what programs have left there: thumbnails, and runs and caches of this trainer, which is remarked on."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found no folder; check {key}")
    own = folder.resolve()
    apart = {other.resolve() for other in taken if other is not None} - {own}
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() not in apart and not _loops(here, name)
        )
        for name in [name for name in folders if _left_by_a_program(here / name)]:
            folders.remove(name)
            remarks.add(
                "folders of thumbnails, or of runs and caches of this trainer, which are not looked into",
                name=name,
                sentence=str(here / name),
            )
        sheet = CHECK_SHEET if CHECK_TEXT in files else None
        yield from (here / name for name in sorted(files) if not name.startswith(".") and name != sheet)


def _left_by_a_program(folder: Path) -> bool:
    def has(*names: str) -> bool:
        return all((folder / name).exists() for name in names)

    return (
        folder.name.lower() in _THUMBNAILS
        or has("events.jsonl")  # a run
        or has(CHECK_SHEET, CHECK_TEXT)
        or has("pictures/settings.json")  # its previews
        or has("latents", "texts")  # a cache
        or (has("index.jsonl") and (has("texts") or has("hints")))
    )


def _loops(here: Path, name: str) -> bool:
    """Whether a linked folder holds the link itself."""
    inner = here / name
    return inner.is_symlink() and here.resolve().is_relative_to(inner.resolve())


def _by_stem(folder: Path, files: Iterable[Path], problems: list[str]) -> dict[str, Path]:
    """Pictures by name; where two have the same, the first is taken and the other is a problem."""
    pictures: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in pictures:
            problems.append(
                f"{path}: expected one picture named {name}, found {pictures[name].name} too; rename one of them"
            )
        else:
            pictures[name] = path
    return pictures


def _tell_unread(files: list[Path], found: Found) -> None:
    """Problems for pictures of kinds that are not read, and remarks on files that are of no known kind."""
    for path in files:
        ending = path.suffix.lower()
        if ending in FOREIGN:
            found.problems.append(
                f"{path}: expected a picture that can be read (png, jpg, webp, ...), found {ending}; save it as PNG or "
                "JPEG"
            )
        elif ending not in (*SUFFIXES, *CAPTION_SUFFIXES, *_BESIDE):
            found.remarks.add(
                "files whose ending is not that of a picture, which are not read",
                "rename those that are pictures",
                name=path.name,
                sentence=f"{path}: not read, since its ending is {ending or 'missing'}",
            )


def _captions(files: list[Path], found: Found, source: Source) -> dict[Path, tuple[str, ...]]:
    """Captions that tables give, and remarks on caption files that belong to no picture."""
    captions: dict[Path, tuple[str, ...]] = {}
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in SUFFIXES}
    for path in files:
        if path.name in METADATA and source.captions != "none":
            captions |= read_metadata(path, found.problems, source.wording.columns, found.remarks)
        elif path.suffix.lower() in CAPTION_SUFFIXES and path.with_suffix("") not in stems:
            found.remarks.add(
                "captions that belong to no picture and are not read",
                "name each as its picture",
                name=path.name,
                sentence=f"{path}: belongs to no picture and is not read",
            )
    return captions


def _add(found: Found, source: Source, name: str, path: Path, file: Path | None, told: tuple[str, ...] | None) -> None:
    """Add a picture with the captions in `file`, else with those that a table has `told`."""
    repeats, texts = source.repeats, None
    named = _REPEATED.fullmatch(name.split("/")[0]) if source.from_names and "/" in name else None
    if named is not None:
        repeats *= int(named[1])
    if not repeats:
        found.remarks.add(
            "pictures below a folder named 0_..., which are not trained on", name=path.name, sentence=str(path)
        )
        return
    if source.captions != "none":
        try:
            texts = told if file is None else read_caption(file, source.wording.lines)
        except DataError as error:
            found.problems.append(str(error))
            return
        if texts is None and named is not None:
            texts = (one_line(named[2]),)
        if texts is None and source.captions == "required" and source.role != PRIOR:
            found.uncaptioned.append(path)
    if texts is None and source.prefix:
        texts = ("",)
    captions = None if texts is None else Captions(source.prefix, texts, source.wording)
    found.candidates.append(Candidate(name, path, source, captions, repeats=repeats))


def refuse_tagless(where: object, wording: Wording, texts: set[str]) -> None:
    """Raise DataError where tags are to be moved or dropped and no caption has several of them."""
    texts = {text for text in texts if text}
    if wording.of_tags and texts and not any(len(wording.tags(text)) > 1 for text in texts):
        key = "shuffle_tags" if wording.shuffle_tags else "drop_tags"
        raise DataError(
            f"{where}: expected tags in captions for data.wording.{key}, found none; set data.wording.separator, or "
            f"take {key} out ({len(texts)} captions without {wording.separator!r})"
        )


def _pair(
    found: Found,
    key: str,
    folder: Path,
    partners: dict[str, Path],
    pictures: list[tuple[Source, dict[str, Path]]],
) -> None:
    """Give every candidate its hint or mask; those without one, and partners of no picture, are problems.

    pictures: of the sources whose partners are in `folder`, by name.  A name that several of them have is that of the
              first of them: a partner is of one picture only.
    """
    paired, sources = [], [source for source, _ in pictures]
    owners: dict[str, tuple[Source, Path]] = {}
    for source, named in pictures:
        for name, path in named.items():
            owners.setdefault(name, (source, path))
    for c in found.candidates:
        if c.source not in sources:
            paired.append(c)
            continue
        partner, (source, owner) = partners.get(c.name), owners[c.name]
        if partner is not None and c.path != owner and c.path.resolve() != owner.resolve():
            if key == "hint" or c.role != HELD:
                found.problems.append(
                    f"{c.path}: expected a name that no picture of {source.key} has, since {folder} "
                    f"has one {key} for each name, found {owner} too; rename it and name its {key} likewise"
                )
                continue
            found.remarks.add(
                "pictures of validation.folder without a mask, since one of data.folder has their name",
                "rename them and their masks",
                name=c.path.name,
                sentence=f"{c.path}: has no mask, {partner} is that of {owner}",
            )
        elif partner is not None:
            c = replace(c, **{key: partner})
        elif key == "hint" or c.role != HELD:
            found.problems.append(
                f"{c.path}: expected a {key} {c.name}.png in {folder}, found none; make one or remove the picture"
            )
            continue
        paired.append(c)
    found.candidates = paired
    found.problems += [
        f"{path}: expected a picture named {name} for this {key}, found none; remove or rename it"
        for name, path in partners.items()
        if name not in owners
    ]
