"""All that a run holds, and how it is taken down into a checkpoint and up again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..tuners import CSCTuner, SCTuner, rebuilt
from .base import FrozenBase
from .batches import DataSet
from .checkpoints import State, checkpoints_in, load_checkpoint, prune_checkpoints, save_checkpoint, set_aside
from .distilling import Lessons
from .errors import ConfigError, TrainingError
from .events import Events
from .objective import Objective
from .optimizing import RunningMean
from .processes import Processes
from .remarks import Remarks
from .run_folder import RunFolder
from .settings import Settings
from .tuner_file import tuner_metadata

# What may differ between a checkpoint and the run that goes on from it: nothing that its numbers depend on.
_FREE = {
    "": {
        "output",
        "run",
        "run_folder",
        "title",
        "tokenizer",
        "memory",
        "saving",
        "previews",
        "sweep",
        "tensorboard",
        "wandb",
    },
    "data": {"cache", "annotators"},
    "loop": {"steps", "warmup"},  # of which the default follows from the steps
    "validation": {"every", "images", "timesteps"},
}


@dataclass
class Run:
    """The parts of a training run.

    step:    optimiser updates done, those included that were skipped.
    skipped: updates of which the gradient did not fit into fp16: in all, and in a row.
    remarks: what is told before the first of them.
    saved:   the step of the newest checkpoint.
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
    remarks: Remarks = field(default_factory=Remarks)

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
        return _digest([_content(example) for example in self.data.examples])

    @cached_property
    def measured(self) -> str | None:
        """A digest of what validation measures; losses can be compared where it is the same."""
        wanted = self.config.validation
        held = self.data.held[: wanted.images]
        return _digest([[*_content(example), wanted.timesteps] for example in held])

    def mean_tuner(self) -> SCTuner | CSCTuner | None:
        """The running mean of the tuner, as a tuner; None where the run keeps none."""
        if self.ema is None:
            return None
        mean = rebuilt(self.tuner, torch.nn, torch.float32)
        for p, shadow in zip(_matching(mean, self.tuner), self.ema.shadow_params, strict=True):
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
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
        }
        if self.ema is not None:
            parts["ema"] = {k: v for k, v in self.ema.state_dict().items() if k != "shadow_params"}
        state = State(self.step, comparable(self.config), self.best, parts, self.pictures, self.measured)
        path = save_checkpoint(self.folder.checkpoints, state, self.tuner, self.mean_tuner(), self.metadata())
        prune_checkpoints(self.folder.checkpoints, self.config.saving.keep)
        self.saved = self.step
        self.events.emit("saved", step=self.step, path=str(path))
        return path

    def restore(self, path: Path, any_config: bool = False) -> None:
        """Go on from a checkpoint, at the learning rate that is set now.

        Raises TrainingError where it is not whole or holds another tuner or optimiser, ConfigError where its settings
        differ in what the numbers depend on, or where all its steps are done with other pictures, unless `any_config`.
        """
        state, tuner, mean = load_checkpoint(path)
        if not any_config:
            self._refuse_another(path, state)
        try:
            if state.config["loop"]["optimizer"] != self.config.loop.optimizer:
                raise ValueError(state.config["loop"]["optimizer"])
            self.tuner.load_state_dict(tuner.state_dict())
            self.optimizer.load_state_dict(state.parts["optimizer"])
            self.schedule.load_state_dict(state.parts["schedule"])
            if state.parts["scaler"]:  # empty of a run in another precision
                self.scaler.load_state_dict(state.parts["scaler"])
            self.skipped = tuple(state.parts.get("skipped", (0, 0)))
            if self.ema is not None and mean is not None:
                shadow = [p.detach().clone() for p in _matching(mean, self.tuner)]
                self.ema.load_state_dict({**state.parts["ema"], "shadow_params": shadow})
                self.ema.to(self.accelerator.device)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise TrainingError(
                f"{path}: expected a checkpoint of this tuner and optimiser, found another ({reason}); "
                "start anew with --resume never"
            ) from error
        self._take_rate()
        self.step = state.step
        self.best = state.best if state.measured in (None, self.measured) else None
        here = path.resolve().parent == self.folder.checkpoints.resolve()
        self.saved = state.step if here else None

    def _refuse_another(self, path: Path, state: State) -> None:
        changed = _differences(state.config, comparable(self.config))
        if changed:
            raise ConfigError(
                f"{path}: expected a checkpoint of these settings, found other values for {', '.join(changed[:4])}; "
                "set them back, start anew with --resume never, or go on with --resume and the path of this checkpoint"
            )
        others = None not in (state.pictures, self.pictures) and state.pictures != self.pictures
        if others and state.step >= self.config.loop.steps:
            raise ConfigError(
                f"{path}: expected the pictures and captions that this run was trained on, found others while all "
                f"{state.step} steps are done; set loop.steps to more to go on with them, or start anew with --resume "
                "never"
            )

    def _take_rate(self) -> None:
        """Give optimiser and schedule, which bring their own from a checkpoint, the rate of the configuration."""
        loop, groups = self.config.loop, self.optimizer.param_groups
        self.schedule.base_lrs = [loop.learning_rate] * len(groups)
        for group, factor in zip(groups, self.schedule.lr_lambdas, strict=True):
            group["initial_lr"], group["weight_decay"] = loop.learning_rate, loop.weight_decay
            group["lr"] = loop.learning_rate * factor(self.schedule.last_epoch)


def resume(run: Run, wish: str) -> None:
    """Bring `run` to where `wish` says: "never", "auto" (go on where there is something), "latest", or a path.

    A checkpoint that is not whole is passed over for the one before it; later ones than the one that is gone on from
    are set aside.  Raises TrainingError where "latest" finds none, and what `Run.restore` raises.
    """
    if wish == "never":
        return
    _restore(run, wish)
    run.accelerator.wait_for_everyone()  # others may still be reading
    if run.accelerator.is_main_process:
        moved = set_aside(run.folder.checkpoints, run.step)
        if moved:
            names = ", ".join(path.name for path in moved)
            run.events.emit("note", message=f"goes on from step {run.step}; {names} moved to {moved[0].parent}")
    if run.step >= run.config.loop.steps:
        run.events.emit(
            "note",
            message=f"nothing to train: {run.step} steps are done and loop.steps is {run.config.loop.steps}; "
            "raise it to go on, or start anew with --resume never",
        )


def _restore(run: Run, wish: str) -> None:
    if wish not in ("auto", "latest"):
        run.restore(Path(wish), any_config=True)
        return
    for path in reversed(checkpoints_in(run.folder.checkpoints)):
        try:
            run.restore(path)
            return
        except TrainingError as error:
            run.events.emit("note", message=str(error))
    if wish == "latest":
        raise TrainingError(
            f"{run.folder.checkpoints}: expected a checkpoint to resume from, found none that is whole; "
            "use --resume never, or check `run` and `output`"
        )


def comparable(config: Settings) -> dict[str, Any]:
    """The settings that a run's numbers depend on, as plain values."""
    values = {key: value for key, value in config.values().items() if key not in _FREE[""]}
    return {
        key: {k: v for k, v in value.items() if k not in _FREE.get(key, ())} if isinstance(value, dict) else value
        for key, value in values.items()
    }


def _content(example: Any) -> list[str | None]:
    partners = (partner and partner.digest for partner in (example.hint, example.mask))
    return [example.digest, example.caption, *partners]


def _digest(values: list) -> str | None:
    """Of the values in any order; None for none."""
    text = "\n".join(sorted(map(json.dumps, values)))
    return hashlib.sha256(text.encode()).hexdigest()[:16] if values else None


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*before, *now}):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} ({a} before, {b} now)")
    return found


def _matching(tuner: SCTuner | CSCTuner, like: SCTuner | CSCTuner) -> list[torch.nn.Parameter]:
    """The parameters of `tuner` at the places of the trainable ones of `like`."""
    wanted = {name for name, p in like.named_parameters() if p.requires_grad}
    return [p for name, p in tuner.named_parameters() if name in wanted]
