"""`python -m training check`: reads everything, tells what will be trained on, and runs two steps."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import track

from scedit_core.conditions.pictures import is_blank
from scedit_core.errors import DataError, TrainingError
from scedit_core.fitting.budget import updates_within
from scedit_core.fitting.chance import generator_for
from scedit_core.fitting.checkpoints import checkpoints_in
from scedit_core.fitting.events import Events
from scedit_core.fitting.loop import update
from scedit_core.fitting.machine import peak_memory_mib
from scedit_core.fitting.remarks import Remarks, printable
from scedit_core.fitting.run import Run
from scedit_core.fitting.run_folder import RunFolder, open_run
from scedit_core.fitting.sweep import variants
from scedit_core.fitting.tuner_file import check_writable, save_trained
from scedit_core.fitting.validation import Validation
from scedit_core.pictures.finding import refuse_tagless
from scedit_core.pictures.framing import Framing, Size, bucket_of, bucket_sizes
from scedit_core.pictures.reading import MASK_PAPER, read_picture, to_tensor
from scedit_core.pictures.sources import wording_of

from .bases.base_model import BaseModel
from .config import TrainConfig
from .data.cache import cache_key
from .data.encoding import Encoder, framed_mask, ready_hint
from .data.examples import Example
from .data.file_index import Seen
from .data.folder_set import FolderSet
from .data.hint_making import Hints
from .data.opening import open_data
from .data.reading_ahead import read_ahead
from .data.shard_reading import expand_shards, samples_of, shaped
from .data.shard_set import first_of
from .data.survey import Survey, cache_folder, check_survey, survey
from .data.training_set import TrainingSet, remarks_on_captions, remarks_on_sizes
from .loop import out_of_memory, prepare
from .refusing import refuse_early
from .seeing.contact_sheet import Shown, draw_contact_sheet
from .seeing.previews import scenes_of

Item = TypeVar("Item")
_SHOWN = 24  # pictures on the contact sheet
_SAMPLES = 3  # captions
_LENGTHS = 10_000  # captions of shards that are remembered


@dataclass
class Findings:
    """What reading everything gave.

    survey:   examples, problems and remarks; of shards it has those that are held for validation and previews.
    pictures: that are trained on.  sizes: how many at each.  captions: of them, where they have one.
    """

    survey: Survey
    pictures: int
    sizes: Counter[Size]
    captions: list[str]


@dataclass
class Trial:
    """What two updates took: seconds of the second one, MiB held at most, and on what.  steps: of the whole run.

    per_picture: seconds to encode a picture, None where all were in the cache.  missing: how many are not in it.
    remarks:     what a training would tell before its first step.
    """

    seconds: float
    memory_mib: float
    device: str
    per_picture: float | None
    missing: int
    remarks: Remarks
    steps: int


def run_check(config: TrainConfig, console: Console | None = None) -> int:
    """Read every file of the set, print what was found, draw a contact sheet and run two updates.

    check.txt and check.jpg in the run folder have what the terminal has no room for.  Returns 0 where a training would
    start.  Raises SCEditError, after all that was found is printed, where it would not.
    """
    console = console or Console()
    refuse_early(config)
    with open_run(config.run_folder):  # which no other run may use
        pass
    found = read_folders(config, console) if config.data.shards is None else read_shards(config, console)
    folder = config.run_folder
    lines, remarks = summary(found), found.survey.all_remarks()
    for line in lines:
        _say(console, line)
    trial = None
    try:
        check_survey(found.survey, config)
        _say(console, f"contact sheet: {draw_sheet(config, found.survey, folder / 'check.jpg')}")
        trial = try_two_updates(config, found.survey, found.captions)
        remarks.take(trial.remarks)
    finally:
        told = [f"- {remark}" for remark in remarks]
        for line in told:
            _say(console, line)
        sentences = [f"{remark.what}: {sentence}" for remark in remarks for sentence in remark.said]
        (folder / "check.txt").write_text("\n".join([*lines, *told, *sentences]) + "\n", "utf-8", "backslashreplace")
        if sentences:
            _say(console, f"every file by its name: {folder / 'check.txt'}")
    for line in estimate(config, trial):
        _say(console, line)
    return 0


def read_folders(config: TrainConfig, console: Console) -> Findings:
    """Find the files and decode every one; those that fail go to the problems."""
    found = survey(config)
    leave_out_broken(found, config, console)
    trained = [*found.own, *found.prior]
    sizes = Counter(size for e in trained for size in e.sizes or (e.bucket,))
    return Findings(found, len(trained), sizes, [e.caption for e in trained if e.caption])


def leave_out_broken(found: Survey, config: TrainConfig, console: Console) -> None:
    """Decode every file of `found` that no earlier check has found whole."""
    fitting = None if config.data.condition is None else Hints(config.data).fitting
    told = None if fitting is None else fitting.said()
    seen, whole = Seen(cache_folder(config) / "whole.txt"), []
    bad: dict[Path, str] = {}

    def mark(example: Example) -> str:
        partners = [[p.digest, p.size] for p in (example.hint, example.mask) if p is not None]
        return cache_key(example.digest, example.size, example.bucket, partners, told if partners else None)

    every = dict.fromkeys([*found.own, *found.prior, *found.held])
    marks = {example: mark(example) for example in every}
    examples = [example for example in every if marks[example] not in seen]

    def decode(example: Example) -> bool:
        """Whether it has a ready hint of one colour."""
        read_picture(example.path, example.path)
        if example.masked:
            framed_mask(example)
        return example.hint is not None and is_blank(ready_hint(example, fitting))

    for example, done in _shown(read_ahead(decode, examples), len(examples), console):
        try:
            if done.result():
                found.remark_on_blank_hint(example.hint.path)
            else:
                whole.append(marks[example])
        except DataError as error:
            bad[example.path] = str(error)
    seen.add(whole)
    found.leave_out(bad)


def read_shards(config: TrainConfig, console: Console) -> Findings:
    """Stream every shard once and decode what is in it."""
    urls = expand_shards(config.data.shards)
    found, excluded = first_of(urls, config)
    found.problems.clear()  # they will be met again
    if config.validation.folder is not None:
        shown, found = found.held, survey(config)
        leave_out_broken(found, config, console)
        found.own, excluded = shown, frozenset()  # the contact sheet is of what is trained on
    buckets = bucket_sizes(config.data.resolution, config.data.buckets, config.data.max_aspect)
    fitting = None if config.data.condition is None else Hints(config.data).fitting
    findings = Findings(found, 0, Counter(), [])
    wording, texts, tagged = wording_of(config.data.wording), set(), False
    for sample in _shown(samples_of(urls, config.data, found.problems), None, console):
        framing = Framing(sample.size, bucket_of(sample.size, buckets))
        try:
            read_picture(io.BytesIO(sample.picture), f"{sample.key} (picture)")
            if sample.mask is not None:
                name = f"{sample.key}.mask"
                framing.mask(shaped(sample.mask, name, framing, MASK_PAPER), name)
            if sample.hint is not None and fitting is not None:
                hint = framing.hint(shaped(sample.hint, f"{sample.key}.hint.png", framing, None), fitting)
                if is_blank(hint):
                    found.remark_on_blank_hint(Path(f"{sample.key}.hint.png"))
        except DataError as error:
            found.problems.append(str(error))
            continue
        if sample.key in excluded and found.unseen:
            continue
        findings.pictures += 1
        findings.sizes[framing.target] += 1
        if len(texts) < _LENGTHS:
            texts.update(sample.texts)
        tagged = tagged or any(len(wording.tags(text)) > 1 for text in sample.texts)
        if sample.caption and len(findings.captions) < _LENGTHS:
            findings.captions.append(sample.caption)
    if not tagged:
        refuse_tagless("data.shards", wording, texts)
    remarks_on_sizes(findings.sizes, findings.sizes, config.loop.batch, found.remarks)
    return findings


def summary(found: Findings) -> list[str]:
    """Counts, sizes and sample captions, a line each."""
    held, prior = found.survey.held, len(found.survey.prior)
    out = "kept out of training" if found.survey.unseen else "of the same"
    lines = [
        f"pictures: {found.pictures} trained on{f', {prior} of them prior' if prior else ''}; "
        f"{len(held)} for validation and previews, {out}; {len(found.survey.problems)} files not used"
    ]
    if prior:
        _, own = found.survey.rounds()
        rows = sum(example.repeats for example in found.survey.prior)
        lines.append(f"shares: {own / (own + rows):.0%} of what is seen is yours, {rows / (own + rows):.0%} is prior")
    sizes = ", ".join(f"{w}x{h}: {count}" for (w, h), count in sorted(found.sizes.items(), key=lambda s: -s[1]))
    lines.append(f"sizes: {sizes or 'none'}")
    lines.append(f"captions: {len(found.captions)} of {found.pictures} pictures, {len(set(found.captions))} different")
    varied = [example for example in (*found.survey.own, *found.survey.prior) if example.wording is not None]
    if varied:
        texts = len(set().union(*(example.texts() for example in varied)))
        lines.append(f"captions that vary: those of {len(varied)} pictures, {texts} texts in all")
    looks = sorted({e.looks.count if e.looks else 1 for e in (*found.survey.own, *found.survey.prior)})
    if looks and looks[-1] > 1:
        counts = str(looks[0]) if len(looks) == 1 else f"{looks[0]} to {looks[-1]}"
        lines.append(f"looks: {counts} of each picture at each size")
    step = max(1, len(found.captions) // _SAMPLES)
    lines += [f"  {caption}" for caption in found.captions[::step][:_SAMPLES]]
    return lines


def draw_sheet(config: TrainConfig, found: Survey, path: Path) -> Path:
    """Draw some of the pictures, evenly chosen, framed as they are trained on, with the hints and masks they have."""
    examples = [*found.own, *found.prior] or found.held
    chosen = [examples[i * len(examples) // _SHOWN] for i in range(_SHOWN)] if len(examples) > _SHOWN else examples
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hints = None if config.data.condition is None else Hints(config.data, device)
    shown = []
    for example in chosen:
        picture = example.framing.apply(read_picture(example.path, example.path))
        hint = mask = None
        if example.hint is not None:
            hint = ready_hint(example, hints.fitting)
        elif hints is not None:
            hint = hints.for_step(hints.make(to_tensor(picture)), generator_for(0, 0, f"hidden of {example.digest}"))
        if example.mask is not None:
            mask = example.framing.apply(read_picture(example.mask.path, example.mask.path, MASK_PAPER))
        elif example.alpha:
            mask = framed_mask(example).resize(example.bucket)
        size = "x".join(str(side) for side in example.size)
        kind = ", prior" if example in found.prior else ""
        name = printable(example.name if example.origin else example.path.name)
        facts = f"{name}, {size} to {example.bucket[0]}x{example.bucket[1]}{kind}"
        shown.append(Shown(picture, hint, mask, facts, example.caption, hints and hints.fitting))
    return draw_contact_sheet(path, shown)


def try_two_updates(config: TrainConfig, found: Survey, captions: Sequence[str] = ()) -> Trial:
    """Run the loop's own update twice, on the first batches that the training would see; nothing is saved of it.

    captions: those of shards, which a training meets only as it goes.
    """
    accelerator = Accelerator(gradient_accumulation_steps=config.loop.accumulate, mixed_precision="no")
    encoding, missing = [], []

    def prepare_data(base: BaseModel, config: TrainConfig, say: Callable[..., None], process: tuple) -> TrainingSet:
        if config.data.shards is not None:
            data = open_data(base, config, say, process)
            remarks_on_captions(base, captions, data.remarks)
            return data
        encoder = Encoder(base, config, cache_folder(config))
        data = FolderSet(base, config, encoder, found)
        missing.extend(f for e in data.examples for f in e.forms() if not encoder.is_cached(f))
        wanted = [e for n in range(2 * config.loop.accumulate) for e in data.examples_of(n, config.loop.batch)]
        for example in dict.fromkeys(wanted):
            begun, fresh = time.perf_counter(), not encoder.is_cached(example)
            encoder.mend(example)
            if fresh:
                encoding.append(time.perf_counter() - begun)
        return data

    folder = RunFolder(config.run_folder)
    folder.is_open = False
    try:
        run = prepare(config, accelerator, folder, Events(), prepare_data=prepare_data)
        update(run).read()
        begun = time.perf_counter()
        update(run).read()
        seconds = time.perf_counter() - begun
        steps = run.config.loop.steps
        if run.budget is not None:
            steps = updates_within(config, 60 * run.budget.minutes, seconds)
        try_what_follows(run)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(config) from error
    if missing:
        check_writable(cache_folder(config) / "latents", "data.cache")
    return Trial(
        seconds=seconds,
        steps=steps,
        memory_mib=peak_memory_mib(accelerator.device),
        device=str(accelerator.device),
        per_picture=statistics.median(encoding) if encoding else None,
        missing=len(missing),
        remarks=run.remarks,
    )


def try_what_follows(run: Run) -> None:
    """What a training does after its updates, as far as it may fail: measure, draw, save, and resume.

    Raises SCEditError as it would.  Nothing of it is kept.
    """
    config = run.config
    if config.validation.every:
        Validation(config, run.base, run.data)
    if config.previews.every:
        scenes_of(config, run.data)
    with tempfile.TemporaryDirectory() as folder:
        save_trained(run.result(), Path(folder, config.output.name), run.metadata(), run.base)
    for path in reversed(checkpoints_in(run.folder.checkpoints)):
        try:
            run.restore(path)
            return
        except TrainingError:
            continue  # as the training does, which takes the one before it


def estimate(config: TrainConfig, trial: Trial) -> list[str]:
    """Memory and time, a line each."""
    lines = []
    where = "GPU" if trial.device.startswith("cuda") else "computer"
    lines.append(f"memory: {trial.memory_mib:.0f} MiB of the {where}'s at most, in two updates")
    loop = config.loop
    if loop.minutes is not None:
        lines.append(f"time: {trial.seconds:.2f} s an update, about {trial.steps} in {loop.minutes:g} minutes")
    else:
        whole = f"{trial.steps}" if loop.epochs is None else f"{trial.steps}, {loop.epochs:g} epochs"
        hours = _hours(trial.seconds * trial.steps)
        lines.append(f"time: {trial.seconds:.2f} s an update, {hours} for {whole} (previews and validation aside)")
    if config.sweep is not None:
        count = len(variants(config, config.sweep.values()))
        lines.append(f"sweep: both are of one tuner; {count} take more of both, and time up to {count} times as much")
    if trial.missing and trial.per_picture is not None:
        caching = _hours(trial.per_picture * trial.missing)
        lines.append(f"caching: {trial.missing} pictures to encode, {trial.per_picture:.2f} s each, {caching} in all")
    return lines


def _hours(seconds: float) -> str:
    """About how long, rounded as an estimate is."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes > 90 else f"{minutes} min"


def _shown(items: Iterable[Item], total: int | None, console: Console) -> Iterable[Item]:
    """The items, with a progress bar where somebody looks on."""
    return track(items, "reading", total, console=console, transient=True, disable=not console.is_terminal)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
