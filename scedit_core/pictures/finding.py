"""Finding pictures with their captions, hints and masks in folders.  Nothing is decoded here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..fitting.errors import DataError
from ..fitting.remarks import Remarks
from ..fitting.settings import Settings
from .captions import METADATA, read_caption, read_metadata
from .captions import SUFFIXES as CAPTION_SUFFIXES
from .reading import FOREIGN, SUFFIXES

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
OWN, PRIOR, HELD = "own", "prior", "held"


@dataclass(frozen=True)
class Candidate:
    """A picture that may be trained on, before anybody looked into it.

    name:    its place in its folder without the ending, such as "dogs/0001".
    role:    OWN, PRIOR (of `data.prior.folder`) or HELD (of `validation.folder`).
    caption: with `data.caption` before it; None where it has none.
    """

    name: str
    path: Path
    role: str
    caption: str | None
    hint: Path | None = None
    mask: Path | None = None


@dataclass
class Found:
    """candidates: sorted by name.  problems: files that cannot be used, a sentence each.  remarks: what a user may
    want to know of files that are used or ignored.  uncaptioned: pictures that lack the caption they need."""

    candidates: list[Candidate] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)
    uncaptioned: list[Path] = field(default_factory=list)


def find_candidates(config: Settings) -> Found:
    """The pictures of `data.folder`, `data.prior.folder` and `validation.folder`, paired by stem.

    Raises DataError for a folder that is missing or that holds no pictures, and for prior pictures beside ready hints.
    """
    data, found = config.data, Found()
    if data.prior is not None and data.hints is not None:
        raise DataError(
            f"{data.prior.folder}: expected no prior pictures beside ready hints, which they have none of, found both; "
            "leave out data.prior, or data.hints so that hints are made"
        )
    roots = [(OWN, "data.folder", data.folder)]
    if data.prior is not None:
        roots.append((PRIOR, "data.prior.folder", data.prior.folder))
    if config.validation.folder is not None:
        roots.append((HELD, "validation.folder", config.validation.folder))
    taken = [data.hints, data.masks, data.cache, config.run_folder, *(folder for _, _, folder in roots)]
    pictures = {}
    for role, key, folder in roots:
        if folder is None:  # the pictures are in shards
            continue
        walked = list(_walk(folder, key, taken, found.remarks))
        pictures[role] = _by_stem(folder, walked, found.problems)
        if not pictures[role]:
            kinds = ", ".join(SUFFIXES)
            raise DataError(f"{folder}: expected images ({kinds}), found none; put pictures into the folder or {key}")
        _tell_unread(walked, found)
        captions = _captions(walked, found)
        for name, path in pictures[role].items():
            _add(found, config, name, path, role, captions.get(path))
    for key, folder in (("hint", data.hints), ("mask", data.masks)):
        if folder is not None:
            partners = _by_stem(folder, list(_walk(folder, f"data.{key}s", [], found.remarks)), found.problems)
            _pair(found, key, folder, partners, pictures)
    found.candidates.sort(key=lambda c: (c.role, c.name))
    return found


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


def _captions(files: list[Path], found: Found) -> dict[Path, str]:
    """Captions that metadata.jsonl files give, and remarks on caption files that belong to no picture."""
    captions: dict[Path, str] = {}
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in SUFFIXES}
    for path in files:
        if path.name == METADATA:
            captions |= read_metadata(path, found.problems)
        elif path.suffix.lower() in CAPTION_SUFFIXES and (
            path.with_suffix("") not in stems or path.suffix not in CAPTION_SUFFIXES
        ):
            found.remarks.add(
                "captions that belong to no picture and are not read",
                "name each as its picture, with .txt in small letters",
                name=path.name,
                sentence=f"{path}: belongs to no picture and is not read",
            )
    return captions


def _add(found: Found, config: Settings, name: str, path: Path, role: str, told: str | None) -> None:
    data, caption = config.data, None
    if data.captions != "none":
        try:
            caption = read_caption(path)
        except DataError as error:
            found.problems.append(str(error))
            return
        caption = told if caption is None else caption
        if caption is None and data.captions == "required" and role != PRIOR:
            found.uncaptioned.append(path)
    if role != PRIOR and data.caption:  # a prior picture is none of the subject that `caption` names
        caption = f"{data.caption} {caption or ''}".strip()
    found.candidates.append(Candidate(name, path, role, caption))


def _pair(
    found: Found, key: str, folder: Path, partners: dict[str, Path], pictures: dict[str, dict[str, Path]]
) -> None:
    """Give every candidate its hint or mask; those without one, and partners of no picture, are problems.

    pictures: by role and name.  A name that is in OWN and in HELD is OWN's: a partner is of one picture only.
    """
    paired, own = [], pictures.get(OWN, {})
    for c in found.candidates:
        partner = partners.get(c.name)
        if c.role == HELD and partner is not None and c.name in own and c.path.resolve() != own[c.name].resolve():
            if key == "hint":
                found.problems.append(
                    f"{c.path}: expected a name that no picture of data.folder has, since {folder} has one hint for "
                    f"each name, found {own[c.name]} too; rename it and name its hint likewise"
                )
                continue
            found.remarks.add(
                "pictures of validation.folder without a mask, since one of data.folder has their name",
                "rename them and their masks",
                name=c.path.name,
                sentence=f"{c.path}: has no mask, {partner} is that of {own[c.name]}",
            )
        elif partner is not None and c.role != PRIOR:
            c = Candidate(c.name, c.path, c.role, c.caption, **{"hint": c.hint, "mask": c.mask, key: partner})
        elif key == "hint" or c.role == OWN:
            found.problems.append(
                f"{c.path}: expected a {key} {c.name}.png in {folder}, found none; make one or remove the picture"
            )
            continue
        paired.append(c)
    found.candidates = paired
    found.problems += [
        f"{path}: expected a picture named {name} for this {key}, found none; remove or rename it"
        for name, path in partners.items()
        if not any(name in named for named in pictures.values())
    ]
