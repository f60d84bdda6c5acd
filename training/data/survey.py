"""Looking into the files that were found: which can be trained on, at which size, and which are kept for validation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scedit_core.conditions.fitting import fitting_of
from scedit_core.errors import DataError
from scedit_core.fitting.batches import held_out
from scedit_core.fitting.remarks import BLANK_HINTS, Remarks
from scedit_core.pictures.finding import HELD, OWN, PRIOR, Candidate, find_candidates
from scedit_core.pictures.framing import MULTIPLE, Framing, Size, bucket_of, bucket_sizes, own_bucket
from scedit_core.pictures.reading import MASK_PAPER, TRANSPARENT

from ..config import TrainConfig
from .examples import Example, Partner
from .file_index import FileIndex, KnownFile
from .reading_ahead import read_ahead

_MIXED = 12  # folders that are told one by one
MASKED = "masked where it is transparent"
_KEPT = 0.7  # of a picture's area; where less is, it is said
_LOOK_AGAIN = 256  # files, after which it is read what other processes found


@dataclass
class Survey:
    """own, prior: trained on; their repeats and weights decide how often and how much.
    held: measured and drawn.
    unseen: whether `held` is kept out of training; else it is trained on as well.
    problems, remarks, uncaptioned: as in `Found`, with what the heads of the files say.
    """

    own: list[Example] = field(default_factory=list)
    prior: list[Example] = field(default_factory=list)
    held: list[Example] = field(default_factory=list)
    unseen: bool = True
    problems: list[str] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)
    uncaptioned: list[Path] = field(default_factory=list)
    _asked: tuple[int, int] | None = None  # of `hold_out`

    def rounds(self) -> tuple[int, int]:
        """How many rounds of `own` go with one of `prior`, 1 or as many as it takes for `prior` to be no more than half
        of what is seen; and rows of `own` in all of them."""
        own, prior = (sum(example.repeats for example in part) for part in (self.own, self.prior))
        rounds = max(1, math.ceil(prior / max(1, own)))
        return rounds, rounds * own

    def mix(self) -> str | None:
        """What of 100 rows is of which folder, where there are several or some repeat more than others."""
        rounds, _ = self.rounds()
        rows: Counter[tuple[str, int]] = Counter()
        for part, factor, role in ((self.own, rounds, ""), (self.prior, 1, "prior")):
            for example in part:
                label = " ".join(filter(None, (role, example.origin))) or "the folder"
                rows[label, factor * example.repeats] += 1
        if len(rows) < 2:
            return None
        total = sum(count * times for (_, times), count in rows.items())
        counted = sorted(rows.items(), key=lambda row: -row[0][1] * row[1])
        told = [
            f"{100 * count * times / total:.3g} are of {label} ({count} pictures{f', {times} times' * (times > 1)})"
            for (label, times), count in counted[:_MIXED]
        ]
        return f"of each 100 rows, {', '.join(told)}{', the rest of others' if len(counted) > _MIXED else ''}"

    def hold_out(self, count: int, first: int) -> None:
        """Fill `held` as `held_out` does; where that is none, with the first of `own`, which are trained on as well."""
        self._asked = count, first
        whole = sorted({example.name: example for example in (*self.own, *self.held)}.values(), key=lambda e: e.name)
        self.own, held = held_out(whole, count)
        self.held, self.unseen = held or whole[:first], bool(held)

    def all_remarks(self) -> Remarks:
        """`remarks`, and files left out, too few pictures to hold out of, and pictures both held out and trained on."""
        found = Remarks()
        for sentence in self.problems:
            where = sentence.split(": ", 1)[0]
            found.add("files left out", f"the first: {sentence}", name=_short(where), sentence=sentence)
        for path in self.uncaptioned:
            found.add(
                "pictures without a caption",
                "write them, or set data.captions to optional",
                name=path.name,
                sentence=str(path),
            )
        self._say_held_back(found)
        trained = {example.digest: example for example in (*self.own, *self.prior)}
        for example in self.held if self.unseen else ():
            twin = trained.get(example.digest)
            if twin is not None:
                found.add(
                    "pictures for validation that are trained on too",
                    "remove one of each pair, since its loss says nothing of new pictures",
                    name=example.path.name,
                    sentence=f"{example.path}: the same picture as {twin.path}",
                )
        mix = self.mix()
        if mix is not None:
            found.add(mix)
        found.take(self.remarks)
        return found

    def _say_held_back(self, remarks: Remarks) -> None:
        asked, kept = self._asked[0] if self._asked else 0, len(self.held) if self.unseen else 0
        if kept >= asked:
            return
        so = f"{kept} is" if kept == 1 else f"{kept} are" if kept else "none is"
        besides = "" if kept else ", and the first of them are measured, which are trained on"
        remarks.add(
            f"validation.hold_out: expected at least {10 * asked} pictures, of which {asked} are a tenth, found "
            f"{len(self.own) + kept}, so that {so} kept out of training{besides}",
            "add pictures, or name others in validation.folder",
        )

    def remark_on_blank_hint(self, path: Path) -> None:
        """Say that the hint at `path`, or of the picture there, is of one colour."""
        self.remarks.add(*BLANK_HINTS, name=_short(str(path)), sentence=str(path))

    def leave_out(self, bad: dict[Path, str]) -> None:
        """Take out the examples whose picture is a key of `bad`; its value, a sentence, becomes a problem.

        What is held out is then chosen again, so that others take the place of those that are gone.
        """
        self.problems = sorted([*self.problems, *bad.values()])
        self.own, self.prior, self.held = (
            [example for example in part if example.path not in bad] for part in (self.own, self.prior, self.held)
        )
        if bad and self._asked is not None:
            self.hold_out(*self._asked)


def cache_folder(config: TrainConfig) -> Path:
    """Where latents, text states, hints and the index of files are kept."""
    return config.data.cache or config.run_folder / "cache"


def survey(
    config: TrainConfig,
    process: tuple[int, int] = (0, 1),
    on_file: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Find the files, and read the heads of those that are new or changed.

    on_file: called with the number of files done and that of all.  process: its rank and how many there are; each looks
    at a part of its own first and takes over what others have found.  Raises DataError as `find_candidates` does.
    """
    found = find_candidates(config)
    index = FileIndex(cache_folder(config) / "index.jsonl")
    data = config.data
    sides = {*data.more_resolutions, *(candidate.source.resolution for candidate in found.candidates)}
    sizes = {side: bucket_sizes(side, data.buckets, data.max_aspect) for side in sides}
    result = Survey(problems=found.problems, remarks=found.remarks, uncaptioned=found.uncaptioned)
    known: dict[int, Example] = {}
    order = own_part_first(range(len(found.candidates)), process)
    for done, (i, known_files) in enumerate(read_ahead(lambda i: _look_up(found.candidates[i], index), order), 1):
        try:
            known[i] = _example(found.candidates[i], *known_files.result(), config, sizes, result)
        except DataError as error:
            result.problems.append(str(error))
        on_file(done, len(found.candidates))
        if process[1] > 1 and done % _LOOK_AGAIN == 0:
            index.refresh()
    by_role = {OWN: result.own, PRIOR: result.prior, HELD: result.held}
    for i in sorted(known):
        by_role[found.candidates[i].role].append(known[i])
    result.problems.sort()
    if config.validation.folder is None:
        result.hold_out(config.validation.hold_out, max(config.validation.images, config.previews.count))
    else:
        trained = {example.digest for example in (*result.own, *result.prior)}
        result.unseen = any(example.digest not in trained for example in result.held)
    return result


def own_part_first(items: Iterable, process: tuple[int, int]) -> Iterator:
    """All items, those of this process first and the others from the end: whoever is ready helps the others."""
    items, (rank, count) = list(items), process
    mine = set(range(rank, len(items), count))
    yield from (items[i] for i in sorted(mine))
    yield from (items[i] for i in reversed(range(len(items))) if i not in mine)


def check_survey(result: Survey, config: TrainConfig) -> None:
    """Raise DataError where `config` says that what was found is not enough to go on."""
    where = config.data.folder or ("data.folders" if config.data.folders else "data.shards")
    if result.uncaptioned:
        names = ", ".join(path.name for path in result.uncaptioned[:3])
        raise DataError(
            f"{where}: expected a caption (.txt, .caption or a line of metadata.jsonl) for each picture, found "
            f"{len(result.uncaptioned)} without ({names}); write them, or set data.captions to optional"
        )
    if result.problems and config.data.bad_files == "stop":
        raise DataError(
            f"{where}: expected no bad files, found {len(result.problems)}, of which the first is "
            f"{result.problems[0]}, or set data.bad_files to skip"
        )
    own = where if config.data.shards is None else None
    for examples, what in ((result.own, own), (result.held, config.validation.folder)):
        if not examples and what is not None:
            reason = f", the first is {result.problems[0]}" if result.problems else ""
            raise DataError(
                f"{what}: expected pictures that can be used, found none{reason or '; put pictures into the folder'}"
            )


def _look_up(candidate: Candidate, index: FileIndex) -> tuple[KnownFile, dict[str, Partner]]:
    """What is known of a picture, its hint and its mask.  Raises DataError where one of them cannot be used."""
    try:
        picture = index.look_up(candidate.path)
        partners = {}
        for key, path in (("hint", candidate.hint), ("mask", candidate.mask)):
            if path is not None:
                partner = index.look_up(path)
                partners[key] = Partner(path, partner.digest, partner.size, partner.facts.remarks)
                if not Framing(picture.size, picture.size).fits(partner.size):
                    raise DataError(
                        f"{path}: expected a {key} with the shape of its picture ({_by(picture.size)}), found "
                        f"{_by(partner.size)}; make it from the whole picture"
                    )
    except OSError as error:
        raise DataError(
            f"{candidate.path}: expected a file that can be read, found none ({error.strerror}); check its permissions"
        ) from error
    return picture, partners


def _example(
    candidate: Candidate,
    picture: KnownFile,
    partners: dict[str, Partner],
    config: TrainConfig,
    sizes: dict[int, list[Size]],
    result: Survey,
) -> Example:
    """The example that a candidate is, with remarks on how it is changed."""
    fitting = _sizes(candidate, picture.size, config, sizes)
    bucket, alpha = fitting[0], config.data.transparency == "mask" and TRANSPARENT in picture.facts.remarks
    framing = Framing(picture.size, bucket)
    name = candidate.path.name
    for remark in picture.facts.remarks:
        remark = MASKED if alpha and remark == TRANSPARENT else remark
        result.remarks.add(remark, name=name, sentence=f"{candidate.path}: {remark}")
    for key, partner in partners.items():
        for remark in partner.remarks:
            told = f"{key}s: {_on(remark, key, config)}"
            result.remarks.add(told, name=partner.path.name, sentence=f"{partner.path}: {told}")
    if framing.scale > 1:
        result.remarks.add(
            "enlarged, which looks soft",
            "use larger pictures, or a lower data.resolution",
            name=name,
            sentence=f"{candidate.path}: enlarged from {_by(picture.size)} to {_by(bucket)}",
        )
    if framing.kept < _KEPT:
        result.remarks.add(
            f"more than {1 - _KEPT:.0%} cut off",
            "crop them yourself, or set data.buckets to true or data.max_aspect to more",
            name=name,
            sentence=f"{candidate.path}: {1 - framing.kept:.0%} cut off, {_by(picture.size)} to {_by(bucket)}",
        )
    return Example(
        name=candidate.name,
        path=candidate.path,
        caption=candidate.caption or "",
        digest=picture.digest,
        size=picture.size,
        bucket=bucket,
        weight=candidate.source.weight,
        repeats=candidate.repeats,
        wording=candidate.captions if candidate.captions and candidate.captions.is_varied else None,
        origin=_origin(candidate),
        sizes=fitting,
        alpha=alpha,
        flip=candidate.source.flip,
        looks=candidate.source.looks,
        **partners,
    )


def _sizes(candidate: Candidate, size: Size, config: TrainConfig, sizes: dict[int, list[Size]]) -> tuple[Size, ...]:
    """The sizes that a picture is trained at, the first that of its folder's resolution.

    Raises DataError for one that is too small.
    """
    data = config.data
    if min(size) < max(data.min_size, 0 if data.upscale else MULTIPLE):
        raise DataError(
            f"{candidate.path}: expected at least {max(data.min_size, MULTIPLE)} px on the shorter side, found "
            f"{_by(size)}; use a larger picture, or lower data.min_size"
        )
    found = []
    for side in (candidate.source.resolution, *data.more_resolutions):
        bucket = bucket_of(size, sizes[side])
        if not data.upscale and Framing(size, bucket).scale > 1:
            bucket = own_bucket(size, data.buckets, data.max_aspect)
        found.append(bucket)
    return tuple(dict.fromkeys(found))


def _origin(candidate: Candidate) -> str:
    """The folder of a picture by a short name; where names say how often it repeats, the one that does."""
    source = candidate.source
    inner, below, _ = candidate.name.removeprefix(f"{source.label}/" if source.label else "").partition("/")
    return inner if below and candidate.repeats != source.repeats else source.label


def _on(remark: str, key: str, config: TrainConfig) -> str:
    """What is said of a transparent picture, with the colour that is behind a hint or mask instead."""
    paper = MASK_PAPER if key == "mask" else fitting_of(config.data.condition.values()).nothing
    return f"put on {paper}, since it is transparent" if remark == TRANSPARENT else remark


def _short(where: str) -> str:
    """A path without its folders; of a member of a shard with the shard's name."""
    path = Path(where)
    return str(Path(path.parent.name, path.name)) if path.parent.suffix == ".tar" else path.name


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
