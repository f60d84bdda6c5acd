"""What a run is told, as plain values.

The command line's own sections (training/config.py) have the same names and defaults, and check what a file says; the
functions here read the attributes alone, and take either.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .event_log import plain
from .optimizers import KINDS
from .rates import default_warmup


class Section:
    """A group of values."""

    def values(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return plain(asdict(self))


@dataclass(frozen=True)
class TunerSettings(Section):
    """What is trained.  `kernel`, `hint_ratio` and `stem_width` are for controls (kind csc) only.

    `start_from` is a tuner file whose weights and shapes the run begins with, in place of the other keys.
    """

    kind: Literal["sc", "csc"]
    ratio: float = 1.0
    blocks: list[int] | None = None
    kernel: int = 1
    hint_ratio: int | None = None  # None: 2 for SDXL, 1 for others
    stem_width: int = 256
    start_from: Path | None = None


def default_sampling(kind: str, taught: bool) -> str:
    """`timestep_sampling` where nothing is said of it, for a tuner of that kind, taught by a ControlNet or not.

    A control that learns from pictures begins to follow its hint much sooner with "high": where things lie is decided
    at high timesteps (docs/figures.md, Quality).
    """
    return "high" if kind == "csc" and not taught else "uniform"


@dataclass(frozen=True)
class ObjectiveSettings(Section):
    """What the loss asks for; see training/config.py, ObjectiveConfig."""

    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    zero_terminal_snr: bool | Literal["auto"] = "auto"
    weighting: Literal["equal", "debiased"] = "equal"
    timestep_range: tuple[int, int] | None = None
    timestep_sampling: Literal["uniform", "low", "middle", "high"] = "uniform"
    loss: Literal["squared", "huber"] = "squared"
    huber_delta: float = 0.1
    huber_schedule: Literal["constant", "falling"] = "constant"
    caption_dropout: float = 0.1
    condition_dropout: float = 0.0


@dataclass(frozen=True)
class LoopSettings(Section):
    """How long and how fast.  `steps` and `warmup` count optimiser updates; `ema` is a decay such as 0.999."""

    steps: int = 1000
    batch: int = 4
    accumulate: int = 1
    optimizer: str = "adamw"  # of optimizers.py
    optimizer_arguments: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None  # of the optimizer
    block_rates: dict[int | str, float] = field(default_factory=dict)
    schedule: Literal["constant", "cosine", "linear"] | None = None  # of the optimizer
    restarts: int = 0
    warmup: int | None = None  # of the steps
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema: float | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", KINDS[self.optimizer].rate)
        if self.schedule is None:
            object.__setattr__(self, "schedule", KINDS[self.optimizer].schedule)
        if self.warmup is None:
            object.__setattr__(self, "warmup", default_warmup(self.steps))


@dataclass(frozen=True)
class SavingSettings(Section):
    """A checkpoint every so many updates, the last `keep` of them kept, and the best by validation.

    tuners: updates between tuner files that are kept beside the output, 0 for none.
    """

    every: int = 500
    keep: int = 2
    tuners: int = 0


@dataclass(frozen=True)
class PreviewSettings(Section):
    """How often pictures are drawn, 0 for never.  first: also before the first update."""

    every: int = 250
    first: bool = False


@dataclass(frozen=True)
class ValidationSettings(Section):
    """Loss at fixed noise and timesteps, tuner on and off, hint on and off.  0 for `every` measures none.

    first: also before the first update.
    """

    every: int = 250
    first: bool = False
    images: int = 8
    timesteps: int = 4
    folder: Path | None = None
    hold_out: int = 0


@dataclass(frozen=True)
class ConditionSettings(Section):
    """What the hints of a control show, and the options of how they are made; name: what own hints are called."""

    type: str
    options: dict[str, Any] = field(default_factory=dict)
    name: str = "custom"

    def values(self) -> dict[str, Any]:
        """Type and options."""
        return {"type": self.type, **self.options}


@dataclass(frozen=True)
class DataSettings(Section):
    """The pictures; see training/config.py, DataConfig.

    model: a fingerprint of the base, where no path names it.
    """

    folder: Path | None = None
    resolution: int = 512
    captions: Literal["required", "optional", "none"] = "optional"
    caption: str = ""
    condition: ConditionSettings | None = None
    model: str = ""
    hints: Path | None = None
    masks: Path | None = None
    prior: None = None
    folders: tuple = ()
    repeats: int = 1
    repeats_from_names: bool = False
    flip: bool = False
    looks: None = None
    wording: None = None
    cache: Path | None = None
    annotators: list[Path] | None = None


@dataclass(frozen=True)
class TeacherSettings(Section):
    """A ControlNet to learn from, by a digest of its weights, and the updates of its phases (see distilling.Phases)."""

    digest: str
    residuals: int | None
    predictions: int | None


@dataclass(frozen=True)
class Settings(Section):
    """One run."""

    output: Path
    run_folder: Path
    tuner: TunerSettings
    data: DataSettings
    title: str | None = None
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    saving: SavingSettings = field(default_factory=SavingSettings)
    previews: PreviewSettings = field(default_factory=PreviewSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    teacher: TeacherSettings | None = None

    def values(self) -> dict[str, Any]:
        """All of it as JSON has it; nothing of a teacher where there is none, as runs without one were always told."""
        values = super().values()
        if self.teacher is None:
            del values["teacher"]
        return values
