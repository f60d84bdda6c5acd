"""All that a run holds, and how it is taken down into a checkpoint and up again."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, TrainingError, in_short
from ..tuners import CSCTuner, SCTuner, rebuilt
from .base import FrozenBase
from .batches import DataSet
from .budget import Budget, of_length
from .checkpoints import State, load_checkpoint, prune_checkpoints, save_checkpoint
from .distilling import Lessons
from .earlier import forget_surplus
from .events import Events
from .identity import differences, digest, picture_of, renamed, settings_of
from .new_tuner import trainable
from .objective import Objective
from .optimizers import KINDS
from .optimizing import RunningMean, own_mean, rate_factor
from .processes import Processes
from .regrouping import grouped_names, load_by_name
from .remarks import Remarks
from .run_folder import RunFolder
from .settings import Settings
from .told import Told
from .tuner_file import tuner_metadata


@dataclass
class Run:
    """The parts of a training run.

    step:    optimiser updates done, those included that were skipped.
    skipped: updates of which the gradient did not fit into fp16: in all, and in a row.
    remarks: what is told before the first of them.
    saved:   the step of the newest checkpoint in the run's folder.
    files:   digests of the base and of other files that the numbers depend on, by key of the configuration.
    budget:  of minutes, where the run has one.
    unsettled: the last update, of which it is not known yet whether it was skipped (told.py).
    noted:   sentences that were told once and need not be again.
    trained: digests of the pictures that the tuner was trained on before the run was resumed.
    shards:  a digest of each file of pictures that are not counted beforehand, else None.
    """

    config: Settings
    accelerator: Processes
    folder: RunFolder
    events: Events
    base: FrozenBase
    data: DataSet
    tuner: SCTuner | CSCTuner
    objective: Objective
    step_module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    ema: RunningMean | None
    lessons: Lessons | None = None
    step: int = 0
    skipped: tuple[int, int] = (0, 0)
    best: float | None = None
    saved: int | None = None
    files: dict[str, str | None] = field(default_factory=dict)
    shards: list[str] | None = None
    budget: Budget | None = None
    remarks: Remarks = field(default_factory=Remarks)
    unsettled: Told | None = None
    noted: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)

    @property
    def part(self) -> tuple[int, int]:
        """(rank, processes)."""
        return self.accelerator.process_index, self.accelerator.num_processes

    def metadata(self) -> dict[str, str]:
        """Metadata of the tuner as it is now."""
        scale = self.tuner.scale if isinstance(self.tuner, CSCTuner) else 1.0
        told = {} if self.lessons is None else self.lessons.metadata()
        return {**tuner_metadata(self.config, self.base, len(self.data.examples), self.step, scale), **told}

    @cached_property
    def pictures(self) -> str | None:
        """A digest of what is trained on; None for shards, which are not counted."""
        return digest([picture_of(example) for example in self.data.examples])

    @cached_property
    def contents(self) -> list[str]:
        """A digest of each picture that is trained on, or of each shard."""
        return self.shards or sorted(digest([picture_of(example)]) for example in self.data.examples)

    @cached_property
    def measured(self) -> str | None:
        """A digest of what validation measures; losses can be compared where it is the same."""
        wanted = self.config.validation
        held = self.data.held[: wanted.images]
        return digest([[*picture_of(example), wanted.timesteps] for example in held])

    def mean_tuner(self) -> SCTuner | CSCTuner | None:
        """The running mean of the tuner, or the optimiser's own, as a tuner; None where none is kept."""
        if self.ema is None and not KINDS[self.config.loop.optimizer].own_mean:
            return None
        mean = rebuilt(self.tuner, torch.nn, torch.float32)
        if self.ema is not None:
            shadows = self.ema.shadow_params
        else:
            with own_mean(self.optimizer, trainable(self.tuner)):
                shadows = [p.detach().clone() for p in trainable(self.tuner)]
        for p, shadow in zip(_matching(mean, self.tuner), shadows, strict=True):
            p.data = shadow.detach().to(p.device, p.dtype, copy=True)
        return mean

    def result(self) -> SCTuner | CSCTuner:
        """What the run delivers: the mean tuner where one is kept, else the tuner."""
        return self.mean_tuner() or self.tuner

    def save(self) -> Path | None:
        """Write a checkpoint on the main process.  Raises TrainingError where that fails."""
        if not self.accelerator.is_main_process or self.saved == self.step:
            return None
        parts = {
            "optimizer": self.optimizer.state_dict(),
            "grouped": grouped_names(self.optimizer, self.tuner),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
            "trained": sorted(self.trained | {example.digest for example in self.data.examples}),
        }
        if self.budget is not None:
            parts["budget"] = self.budget.state_dict()
        if self.ema is not None:
            parts["ema"] = {k: v for k, v in self.ema.state_dict().items() if k != "shadow_params"}
        state = State(
            step=self.step,
            config=self._settings(),
            best=self.best,
            parts=parts,
            pictures=self.pictures,
            measured=self.measured,
            files=self.files,
            contents=self.contents,
        )
        path = self._written(state)
        prune_checkpoints(self.folder.checkpoints, self.config.saving.keep)
        forget_surplus(self.folder.path)
        self.saved = self.step
        self.events.emit("saved", step=self.step, path=str(path))
        return path

    def _written(self, state: State) -> Path:
        """A checkpoint in the run's folder; where that cannot be written, the run ends with one in another place."""
        parts = state, self.tuner, self.mean_tuner(), self.metadata()
        try:
            return save_checkpoint(self.folder.checkpoints, *parts)
        except TrainingError as error:
            try:
                kept = save_checkpoint(Path(tempfile.mkdtemp(prefix="scedit-")), *parts)
            except (TrainingError, OSError):
                raise error from None
            raise TrainingError(
                f"{error}; step {state.step} is kept elsewhere, and --resume {kept} goes on from it"
            ) from error

    def set_steps(self, steps: int) -> None:
        """Have the run end after that many updates; the learning rate follows."""
        loop = of_length(self.config.loop, steps)
        changed = {"loop": loop}
        config = self.config
        self.config = replace(config, **changed) if is_dataclass(config) else config.model_copy(update=changed)
        self.schedule.lr_lambdas = [rate_factor(loop)] * len(self.schedule.lr_lambdas)
        self._take_rate()

    def restore(self, path: Path, any_config: bool = False) -> None:
        """Go on from a checkpoint, with the learning rates, optimiser's arguments and running mean that are set now.

        Raises TrainingError where it is not whole or holds another tuner or optimiser, ConfigError where it is of
        another run: of other settings that the numbers depend on, another base, or none of the pictures, unless
        `any_config`.
        """
        state, tuner, mean = load_checkpoint(path)
        if self.budget is not None:
            if "budget" in state.parts:
                self.budget.take(state.parts["budget"])
            self.set_steps(state.step + 1 if self.budget.steps is None else self.budget.steps)
        if not any_config:
            self._refuse_another(path, state, tuner)
        try:
            if state.config["loop"]["optimizer"] != self.config.loop.optimizer:
                raise ValueError(state.config["loop"]["optimizer"])
            self.tuner.load_state_dict(tuner.state_dict())
            names = grouped_names(self.optimizer, self.tuner)
            lost = load_by_name(self.optimizer, names, state.parts, state.config["loop"], self.config.loop)
            self.schedule.load_state_dict(state.parts["schedule"])
            if state.parts["scaler"]:  # empty of a run in another precision
                self.scaler.load_state_dict(state.parts["scaler"])
            self.skipped = tuple(state.parts.get("skipped", (0, 0)))
            if self.ema is not None:
                shadow = [p.detach().clone() for p in _matching(mean or self.tuner, self.tuner)]
                counted = state.parts["ema"] if mean is not None else self.ema.state_dict()
                self.ema.load_state_dict({**counted, "decay": self.config.loop.ema, "shadow_params": shadow})
                self.ema.to(self.accelerator.device)
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"{path}: expected a checkpoint of this tuner and optimiser, found another ({in_short(error)}); "
                "start anew with --resume never, which keeps the earlier run"
            ) from error
        if lost is not None:
            message = f"resumes from step {state.step} with a new optimiser, since {lost}; the tuner's weights are kept"
            self.events.emit("note", message=message)
        if self.lessons is not None:
            self.lessons.keep(state.config.get("teacher") or {})
        self._take_rate()
        self._leave_out_trained(state)
        self.step = state.step
        here = path.resolve().parent == self.folder.checkpoints.resolve()
        self.best = state.best if here and state.measured in (None, self.measured) else None
        self.saved = state.step if here else None

    def changed_pictures(self, state: State) -> str | None:
        """How the pictures and captions differ from those of a checkpoint, or None."""
        if state.contents is None:
            return None if state.pictures in (None, self.pictures) else "other pictures or captions"
        fresh, gone = (
            len(set(a) - set(b)) for a, b in ((self.contents, state.contents), (state.contents, self.contents))
        )
        what = "shards" if self.shards is not None else "pictures or captions"
        return f"{fresh} new and {gone} gone of the {what}" if fresh or gone else None

    def _leave_out_trained(self, state: State) -> None:
        """No longer measure as unseen what was trained on before, where pictures were added and others are held out."""
        self.trained |= set(state.parts.get("trained", ()))
        if not self.data.unseen:
            return
        now, before = {example.digest for example in self.data.examples}, set(state.contents or ())
        known = [
            each
            for each in self.data.held
            if each.digest not in now and (each.digest in self.trained or digest([picture_of(each)]) in before)
        ]  # of what is in both sets now a remark tells
        if not known:
            return
        left = [each for each in self.data.held if each not in known]
        self.data.held, self.data.unseen = left or self.data.held, bool(left)
        does = "are measured no more" if left else "are measured all the same, as there are no others"
        self.events.emit(
            "note", message=f"{len(known)} of the pictures that are held out now were trained on before; they {does}"
        )

    def _settings(self) -> dict[str, Any]:
        """The settings that the numbers depend on, with a teacher's phases as they are planned."""
        settings = settings_of(self.config)
        return settings if self.lessons is None else {**settings, "teacher": settings["teacher"] | self.lessons.planned}

    def _refuse_another(self, path: Path, state: State, tuner: SCTuner | CSCTuner) -> None:
        changed = differences(state.config, self.config)
        unsaid = () if self.lessons is None else tuple(f"teacher.{phase} " for phase in self.lessons.unsaid)
        changed = [each for each in changed if not each.startswith(unsaid)] if unsaid else changed
        if _shapes(tuner) == _shapes(self.tuner):  # said in other words
            changed = [each for each in changed if not each.startswith("tuner.")]
        if state.files is not None:
            keys = {**self.files, **state.files}
            changed += [f"{key} (another file)" for key in keys if state.files.get(key) != self.files.get(key)]
        else:  # from before these were kept
            changed += renamed(state.config, self.config)
            before = tuner.metadata.get("scedit.base", self.base.name)
            changed += [f"base ({before} before, {self.base.name} now)"] if before != self.base.name else []
        if state.contents and not set(state.contents) & set(self.contents):
            changed.append(f"all {len(state.contents)} pictures")
        if changed:
            named = ", ".join(sorted(changed)[:4])
            raise ConfigError(
                f"{path}: expected a checkpoint of these settings, found other values for {named}; "
                "set them back, start anew with --resume never, which keeps the earlier run, or go on with --resume "
                "and the path of this checkpoint"
            )
        others = self.changed_pictures(state)
        if others and state.step >= self.config.loop.steps:
            raise ConfigError(
                f"{path}: expected the pictures and captions that this run was trained on, found {others} while all "
                f"{state.step} steps are done; set loop.steps to more to go on with them, or start anew with --resume "
                "never, which keeps the earlier run"
            )

    def _take_rate(self) -> None:
        """Give optimiser and schedule, which bring their own from a checkpoint, the rate of the configuration."""
        loop, groups = self.config.loop, self.optimizer.param_groups
        self.schedule.base_lrs = [loop.learning_rate * group.get("factor", 1.0) for group in groups]
        for group, rate, factor in zip(groups, self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["weight_decay"] = rate, loop.weight_decay
            group["lr"] = rate * factor(self.schedule.last_epoch)

    @property
    def rate(self) -> float:
        """The learning rate of the next update, without the factors of single blocks."""
        group = self.optimizer.param_groups[0]
        return group["lr"] / group.get("factor", 1.0)


def _shapes(tuner: SCTuner | CSCTuner) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tuner.state_dict().items()}


def _matching(tuner: SCTuner | CSCTuner, like: SCTuner | CSCTuner) -> list[torch.nn.Parameter]:
    """The parameters of `tuner` at the places of the trainable ones of `like`."""
    wanted = {name for name, p in like.named_parameters() if p.requires_grad}
    return [p for name, p in tuner.named_parameters() if name in wanted]
