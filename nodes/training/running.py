"""A training run on a MODEL, from its settings to the saved tuner: what the node does between its two wires."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ...scedit_core import SCEditError
from ...scedit_core.errors import TrainingError
from ...scedit_core.fitting.distilling import Lessons, Phases
from ...scedit_core.fitting.event_log import EVENTS_FILE, EventLog, latest_run_of_steps, read_events
from ...scedit_core.fitting.events import Events, told_of_the_end
from ...scedit_core.fitting.following import shows_edges
from ...scedit_core.fitting.identity import digest_of
from ...scedit_core.fitting.loop import train_to_end
from ...scedit_core.fitting.new_tuner import new_tuner
from ...scedit_core.fitting.objective import Objective
from ...scedit_core.fitting.optimizing import changing, check_optimizer
from ...scedit_core.fitting.processes import OneProcess
from ...scedit_core.fitting.rates import rate_remarks
from ...scedit_core.fitting.recomputing import recompute
from ...scedit_core.fitting.reporting import Reporting
from ...scedit_core.fitting.resuming import resume
from ...scedit_core.fitting.run import Run
from ...scedit_core.fitting.run_folder import RunFolder, Stopped, open_run
from ...scedit_core.fitting.settings import Settings, TeacherSettings
from ...scedit_core.fitting.step import TrainingStep
from ...scedit_core.fitting.sweep import train_sweep, variants
from ...scedit_core.fitting.tuner_file import check_writable
from .encoded import Encoded
from .host_base import HostBase
from .page import TrainingPage
from .picture_set import PictureSet, encode_text, from_folder, from_graph, give_hints
from .previews import HostPreviews
from .teacher import HostTeacher
from .wording import on_the_node


@dataclass
class Teaching:
    """A ControlNet to learn from.

    control:                the CONTROL_NET.
    name:                   for people and the tuner's file.
    residuals, predictions: updates of these phases, None for the default (see fitting/distilling.py, Phases).
    """

    control: Any
    name: str
    residuals: int | None = None
    predictions: int | None = None


@dataclass
class Sources:
    """What the node is connected to.

    latents, positive, hints: lists, None where not connected.
    teaching: of a control that learns from a ControlNet.
    """

    model: Any
    latents: Sequence[dict] | None = None
    positive: Sequence[list] | None = None
    hints: Sequence[torch.Tensor] | None = None
    vae: Any = None
    clip: Any = None
    teaching: Teaching | None = None


def run_training(
    settings: Settings,
    sources: Sources,
    checkpointing: bool,
    start: str,
    page: TrainingPage,
    sweep: Mapping[str, Sequence[Any]] | None = None,
) -> list[float]:
    """Train one tuner, saved at `settings.output`; gives the loss of each of its steps.

    start: "auto" goes on from the newest checkpoint where there is one; "never" begins anew.
    sweep: lists of what differs between several tuners, of which the best is saved there (see fitting/sweep.py).

    Raises the host's InterruptProcessingException where it is cancelled, after a checkpoint; SCEditError with one
    sentence for everything that a user can act on.
    """
    check_optimizer(settings.loop)
    check_writable(settings.output)
    if sweep:
        variants(settings, sweep)  # which refuses what cannot be, before anything is encoded
    # Nodes run in inference mode, in which nothing can be trained.
    with torch.inference_mode(False), torch.enable_grad(), open_run(settings.run_folder, settings.output) as folder:
        listeners = [EventLog(folder.path / EVENTS_FILE), Reporting(folder.path, on_the_node), page]
        with contextlib.closing(_Events(listeners)) as events:
            followed, encoded = _Folder(folder.path, page), Encoded(folder.path / "encoded")
            no_room, no_memory = _out_of_memory(settings, checkpointing), comfy.model_management.OOM_EXCEPTION
            stopped = True
            try:
                with told_of_the_end([events], start, no_room, no_memory), followed.interruptible():
                    _train(settings, sources, checkpointing, start, followed, encoded, events, sweep or {})
                    stopped = False
            finally:
                gc.collect()
                encoded.remove()
                comfy.model_management.soft_empty_cache()
    if stopped:
        raise comfy.model_management.InterruptProcessingException
    steps = latest_run_of_steps(read_events(settings.run_folder / EVENTS_FILE))
    return [event["loss"] for event in steps if event["event"] == "step" and event.get("loss") is not None]


def _train(
    settings: Settings,
    sources: Sources,
    checkpointing: bool,
    start: str,
    folder: _Folder,
    encoded: Encoded,
    events: Events,
    sweep: Mapping[str, Sequence[Any]],
) -> None:
    loop = settings.loop

    def say(event: str, **values: Any) -> None:
        events.emit(event, **values)
        folder.check()

    clip = sources.clip
    encode = None if clip is None else (lambda caption: encode_text(clip, caption))
    base = HostBase(sources.model, loop.precision, checkpointing, encode)
    objective = Objective(base.alphas_cumprod, base.prediction, settings.objective)
    teacher = None
    if sources.teaching is not None:
        teacher = HostTeacher(sources.teaching.control, base, sources.teaching.name)
        _try_out(teacher)
    settings = replace(settings, data=replace(settings.data, model=base.fingerprint()))
    if sources.latents is not None:
        pictures = from_graph(base, encoded, sources.latents, sources.positive or [_empty_caption(clip)])
    else:
        pictures = from_folder(settings, base, encoded, sources.vae, sources.clip, say)
    if settings.data.condition is not None:
        give_hints(settings, encoded, pictures, sources.hints, base.unet_device, say)
    lessons = None
    if teacher is not None:
        told = sources.teaching
        captioned = sources.positive is not None or any(p.caption for p in pictures if sources.latents is None)
        settings = replace(settings, teacher=TeacherSettings(teacher.digest, told.residuals, told.predictions))
        lessons = Lessons(base, teacher, Phases(told.residuals, told.predictions, captioned), loop.steps)
    empty = None if encode is None else encode("")
    base.know_empty(empty or pictures[0].text)
    data = PictureSet(pictures, settings, base.needs_sizes, empty)
    tuner = new_tuner(settings.tuner, base.layout, loop.seed).to(base.unet_device)
    recompute(tuner, hints=checkpointing)
    run = Run(
        config=settings,
        accelerator=OneProcess(base.unet_device, loop.accumulate),
        folder=folder,
        events=events,
        base=base,
        data=data,
        objective=objective,
        step_module=TrainingStep(base, tuner),
        lessons=lessons,
        files={"tuner.start_from": settings.tuner.start_from and digest_of(settings.tuner.start_from)},
        **changing(tuner, loop, base.compute_dtype == torch.float16),
    )
    run.remarks.take(data.remarks)
    run.remarks.take(rate_remarks(loop))
    if base.taken_off:
        run.remarks.add(f"not used while training: {', '.join(base.taken_off)}")
    if empty is None and settings.objective.caption_dropout:
        run.remarks.add("no caption is left out in training, since no CLIP is connected", "connect clip")
    if not sweep:  # whose tuners begin each for itself
        resume(run, start)
    previews = None
    if settings.previews.every and not sweep:
        shown = empty or base.encode_captions([""])
        pictured = data.held or data.examples
        edges = shows_edges(settings.data.condition)
        previews = HostPreviews(
            sources.model,
            folder.path / "previews",
            pictured,
            shown,
            hint_of=lambda picture: data.batch_of([picture]).hints,
            vae=sources.vae,
            teacher=teacher,
            edges=edges,
        )
    folder.follow(run, previews)
    members = variants(settings, sweep) if sweep else {}
    memory = _memory(base, pictures, loop.batch * max(1, len(members)), checkpointing)
    memory += teacher.memory_required() if teacher else 0
    if base.unet_device.type == "cuda":  # what is told of memory is this run's
        torch.cuda.reset_peak_memory_stats(base.unet_device)
    with base.loaded(memory), teacher.running() if teacher else contextlib.nullcontext():
        if previews is not None:
            previews.afterwards = lambda: _load_again(base, teacher)
        if members:
            train_sweep(run, members, start, lambda tuner: recompute(tuner, hints=checkpointing))
        else:
            train_to_end(run, previews)


def _try_out(teacher: HostTeacher) -> None:
    """Load a teacher beside its base from now on, and raise SCEditError where it is not one for it."""
    teacher.base.beside = teacher.models()
    with teacher.base.loaded(), teacher.running():
        teacher.check()


def _load_again(base: HostBase, teacher: HostTeacher | None) -> None:
    base.load()
    if teacher is not None:
        teacher.start()


def _empty_caption(clip: Any) -> list:
    """The CONDITIONING of no caption.  Raises SCEditError without a CLIP."""
    if clip is None:
        raise SCEditError(
            "clip: expected a CLIP for the empty caption of pictures without captions, found none; connect the "
            "checkpoint's CLIP, or captions through positive"
        )
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(""))


class _Folder(RunFolder):
    """The run folder, where a Cancel of the host or the page is a wish to stop; moves the host's bar as well."""

    def __init__(self, path: Path, page: TrainingPage) -> None:
        super().__init__(path)
        self._page = page
        self._run: Run | None = None
        self._previews: HostPreviews | None = None
        self._bar: comfy.utils.ProgressBar | None = None
        self._cancelled = False

    def follow(self, run: Run, previews: HostPreviews | None) -> None:
        """Show the steps of `run` from now on."""
        self._run, self._previews = run, previews
        self._bar = comfy.utils.ProgressBar(run.config.loop.steps)

    def stop_wish(self) -> str | None:
        """See RunFolder."""
        self._look()
        return "Cancel" if self._cancelled else super().stop_wish()

    def check(self, *_args: Any, **_values: Any) -> None:
        """See RunFolder."""
        self._look()
        if self._cancelled:
            raise Stopped("Cancel")
        super().check()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """See RunFolder: newer hosts raise a Cancel out of any layer of a model, which takes the wish away."""
        try:
            yield
        except comfy.model_management.InterruptProcessingException:
            raise Stopped("Cancel") from None

    def _look(self) -> None:
        try:
            if self._bar is not None:
                picture = self._previews.latest if self._previews is not None else None
                shown = None if picture is None else ("JPEG", picture, 512)
                if self._previews is not None:
                    self._previews.latest = None
                self._bar.update_absolute(self._run.step, self._run.config.loop.steps, shown)
            comfy.model_management.throw_exception_if_processing_interrupted()
            self._cancelled |= self._page.stop_wanted
        except comfy.model_management.InterruptProcessingException:  # which takes the wish away
            self._cancelled = True


class _Events(Events):
    """Events in the words of the node."""

    def emit(self, event: str, **values: Any) -> None:
        """See Events."""
        if isinstance(values.get("message"), str):
            values["message"] = on_the_node(values["message"])
        for remark in values.get("remarks", ()):
            remark |= {key: on_the_node(said) for key, said in remark.items() if isinstance(said, str)}
        super().emit(event, **values)


def _memory(base: HostBase, pictures: Sequence[Any], batch: int, checkpointing: bool) -> float:
    """Bytes to leave free beside the model: what a forward needs, some of it kept for the backward pass."""
    width, height = max(p.bucket for p in pictures)
    forward = base.model.memory_required([batch, base.latent_channels, height, width])
    return forward * (1.5 if checkpointing else 3)


def _out_of_memory(settings: Settings, checkpointing: bool) -> TrainingError:
    advice = "lower batch and raise accumulate instead" if settings.loop.batch > 1 else "use smaller pictures"
    if not checkpointing:
        advice = f"turn checkpointing on, or {advice}"
    return TrainingError(
        f"GPU memory: expected room for {settings.loop.batch} pictures a step, found too little; {advice}"
    )


def was_trained_here(run_folder: Path) -> bool:
    """Whether there was a run in that folder, whose tuner may be replaced."""
    return (run_folder / EVENTS_FILE).is_file()
