"""The trainer's configuration: typed sections, unknown keys refused.  `config_file.py` reads it from YAML.

Every path may be relative: it then starts at the folder of the YAML file.  The commented manual of all keys is
`training/examples/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from scedit_core.fitting.distilling import Phases
from scedit_core.fitting.optimizers import KINDS
from scedit_core.fitting.rates import default_warmup
from scedit_core.fitting.settings import default_sampling

from .config_data import DataConfig, TextConfig
from .config_section import Count, Section, Share


class TunerConfig(Section):
    """What is trained.  `kernel`, `hint_ratio` and `stem_width` are for controls (kind csc) only.

    `start_from` is a tuner file whose weights and shapes the run begins with, in place of the other keys.
    """

    kind: Literal["sc", "csc"]
    ratio: Annotated[float, Field(gt=0, le=8)] = 1.0
    blocks: list[Count] | None = None
    kernel: Literal[1, 3] = 1
    hint_ratio: Annotated[int, Field(ge=1, le=8)] | None = None  # None: 2 for SDXL, 1 for others
    stem_width: Annotated[int, Field(ge=8, le=1280)] = 256
    start_from: Path | None = None


class TeacherConfig(Section):
    """A ControlNet that a control (kind csc) is made from, for `loop.steps` updates in three phases.

    controlnet:  a file as ComfyUI has it, or a diffusers folder, for the same base.
    kind:        what the hints of a union ControlNet show.
    strength:    at which the ControlNet is copied.
    residuals:   updates that fit what it adds to each skip.
    predictions: updates that fit what the base says under it; pictures follow, to the end.

    Where neither number is said: a quarter of residuals, then pictures; without captions half residuals and half
    predictions.
    """

    controlnet: Path
    kind: (
        Literal[
            "openpose", "depth", "hed", "scribble", "canny", "lineart", "mlsd", "normal", "segment", "tile", "repaint"
        ]
        | None
    ) = None
    strength: Annotated[float, Field(gt=0, le=4)] = 1.0
    residuals: Count | None = None
    predictions: Count | None = None

    @model_validator(mode="after")
    def _teaches_something(self) -> TeacherConfig:
        if self.residuals == self.predictions == 0:
            raise ValueError("expected residuals or predictions above 0, found none of either; leave the teacher out")
        return self


class ObjectiveConfig(Section):
    """What the loss asks for.

    min_snr_gamma:     weighs timesteps by min(snr, gamma); 5 is usual, None leaves them equal.
    weighting:         "debiased" counts nearly clean pictures less and noisy ones more, in place of min_snr_gamma.
    timestep_range:    the first and the last timestep that are trained; all of them where nothing is said.
    timestep_sampling: which of these are drawn more often: low ones, which decide on details, middle ones, or high
                       ones, which decide on the composition.  By default high for controls that no ControlNet
                       teaches, and uniform for others.
    loss, huber_delta, huber_schedule: "huber" counts errors above the delta by their size and not by their square, so
                       that pictures that do not belong pull less; "falling": the delta is 1 at timestep 0, and
                       huber_delta at the last one.
    noise_offset:      a constant added to the noise of each channel, for darker and brighter pictures.
    zero_terminal_snr: rescales the betas; "auto" as the base's schedule says.
    caption_dropout:   share of examples trained without their caption.
    condition_dropout: share of examples trained with a black hint.
    """

    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    noise_offset: Annotated[float, Field(ge=0, le=1)] = 0.0
    zero_terminal_snr: bool | Literal["auto"] = "auto"
    weighting: Literal["equal", "debiased"] = "equal"
    timestep_range: tuple[Count, Count] | None = None
    timestep_sampling: Literal["uniform", "low", "middle", "high"] = "uniform"
    loss: Literal["squared", "huber"] = "squared"
    huber_delta: Annotated[float, Field(gt=0, le=10)] = 0.1
    huber_schedule: Literal["constant", "falling"] = "constant"
    caption_dropout: Share = 0.1
    condition_dropout: Share = 0.0

    @model_validator(mode="after")
    def _one_weighting(self) -> ObjectiveConfig:
        if self.weighting != "equal" and self.min_snr_gamma is not None:
            raise ValueError(
                f"expected one of min_snr_gamma and weighting, found {self.min_snr_gamma:g} and {self.weighting}"
            )
        if self.loss != "huber" and (self.huber_delta, self.huber_schedule) != (0.1, "constant"):
            raise ValueError(f"expected loss: huber beside huber_delta and huber_schedule, found {self.loss}")
        if self.timestep_range is not None and self.timestep_range[0] > self.timestep_range[1]:
            raise ValueError(f"expected a timestep_range from low to high, found {list(self.timestep_range)}")
        return self


def _optimizer(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}")
    return name


class LoopConfig(Section):
    """How long and how fast.  `steps` and `warmup` count optimiser updates; `ema` is a decay such as 0.999.

    epochs, minutes: the length of the run in place of `steps`: rounds that show each picture as often as it counts, or
                     how long it may take, from the first update on; training/length.py says how many updates that is.
    optimizer:           by the names of scedit_core/fitting/optimizers.py.
    optimizer_arguments: what it is given besides the learning rate and weight decay.
    learning_rate: that of the optimizer by default; 1e-4 for AdamW, 1 for prodigy, which finds the rate itself and
                   multiplies it by this one.
    block_rates:   what the learning rate is multiplied by in some output blocks (5, or 0-3), or in the hint encoder of
                   a control (hint); 0 freezes them.
    schedule:      cosine by default, constant for schedule-free optimisers.
    restarts:      how often cosine or linear begin anew on their way.
    warmup:        by default a tenth of the steps, at most 50.
    """

    steps: Annotated[int, Field(ge=1)] = 1000
    epochs: Annotated[float, Field(gt=0)] | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    batch: Annotated[int, Field(ge=1)] = 4
    accumulate: Annotated[int, Field(ge=1)] = 1
    optimizer: Annotated[str, AfterValidator(_optimizer)] = "adamw"
    optimizer_arguments: dict[str, Any] = Field(default_factory=dict)
    learning_rate: Annotated[float, Field(gt=0)] = Field(default_factory=lambda loop: KINDS[loop["optimizer"]].rate)
    block_rates: dict[Count | str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    schedule: Literal["constant", "cosine", "linear"] = Field(
        default_factory=lambda loop: KINDS[loop["optimizer"]].schedule
    )
    restarts: Count = 0
    warmup: Count = Field(default_factory=lambda loop: default_warmup(loop["steps"]))
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: Count = 0

    @model_validator(mode="after")
    def _one_length(self) -> LoopConfig:
        said = [key for key in ("steps", "epochs", "minutes") if key in self.model_fields_set and getattr(self, key)]
        if len(said) > 1:
            raise ValueError(f"expected one of steps, epochs and minutes, found {' and '.join(said)}")
        return self


class MemoryConfig(Section):
    """What is given for less memory.

    checkpointing:       decoder blocks are computed again in the backward pass.
    frozen_convolutions: frozen layers of the decoder keep no inputs for the backward pass.
    fp8:                 the frozen U-Net is stored in 8 bits and computed in `loop.precision`.
    compile:             torch.compile on the U-Net's two halves; "auto" where that is known to work and the run is long
                         enough to gain by it (memory/compiling.py).
    vae:                 precision of the VAE; fp16 is not offered, since SDXL's VAE overflows in it.
    """

    checkpointing: bool = False
    frozen_convolutions: bool = True
    fp8: bool = False
    compile: bool | Literal["auto"] = "auto"
    vae: Literal["fp32", "bf16"] = "fp32"


class SavingConfig(Section):
    """A checkpoint every so many updates, the last `keep` of them kept, and the best by validation.

    tuners: updates between tuner files that are kept beside the output, named for their step (and one at a stop);
            0 keeps none.
    """

    every: Annotated[int, Field(ge=1)] = 500
    keep: Annotated[int, Field(ge=1)] = 2
    tuners: Count = 0


class PreviewConfig(Section):
    """Pictures drawn while training, at fixed seeds, with and without the tuner.  0 for `every` draws none.

    first: also before the first update.
    Without `prompts` (and `hints`, files, for controls alone) the first captions and hints of the set are used.
    """

    every: Count = 250
    first: bool = False
    count: Annotated[int, Field(ge=1, le=16)] = 4
    prompts: list[str] = Field(default_factory=list)
    hints: list[Path] = Field(default_factory=list)
    negative: str = ""
    steps: Annotated[int, Field(ge=1, le=200)] = 25
    guidance: Annotated[float, Field(ge=0, le=50)] = 5.0
    seed: Count = 1


class ValidationConfig(Section):
    """Loss at fixed noise and timesteps, tuner on and off, hint on and off.  0 for `every` measures none.

    first: also before the first update.
    Pictures come from `folder`, laid out as the training folder (with names of their own where there are hints or masks
    in folders: those belong to the training picture of their name), else `hold_out` of the set (at most a tenth) are
    kept out of training; where that is none, the first of the set are measured.
    """

    every: Count = 250
    first: bool = False
    images: Annotated[int, Field(ge=1)] = 8
    timesteps: Annotated[int, Field(ge=1, le=50)] = 4
    folder: Path | None = None
    hold_out: Count = 0


class SweepConfig(Section):
    """Several tuners in one pass: lists of what differs between them; all combinations are trained, at most 16."""

    learning_rate: list[Annotated[float, Field(gt=0)]] = Field(default_factory=list)
    ratio: list[Annotated[float, Field(gt=0, le=8)]] = Field(default_factory=list)
    blocks: list[list[Count]] = Field(default_factory=list)
    kernel: list[Literal[1, 3]] = Field(default_factory=list)


class TrainConfig(Section):
    """One run: a base model, a tuner, data, and the file that comes out.

    base:       a diffusers folder or a single checkpoint file.
    prediction: what the base predicts, where "auto" guesses wrong.
    vae:        a VAE in a file or folder of its own, in place of the base's.
    tokenizer:  folder with a CLIP tokenizer, where none is found by itself.
    output:     the tuner's file.
    run:        folder for checkpoints, events, previews and report; `output` with .run for its suffix by default.
    """

    base: Path
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    vae: Path | None = None
    tokenizer: Path | None = None
    output: Path
    run: Path | None = None
    title: str | None = None
    tuner: TunerConfig
    data: DataConfig
    text: TextConfig = TextConfig()
    teacher: TeacherConfig | None = None
    objective: Annotated[ObjectiveConfig, Field(validate_default=True)] = ObjectiveConfig()
    loop: LoopConfig = LoopConfig()
    memory: MemoryConfig = MemoryConfig()
    saving: SavingConfig = SavingConfig()
    previews: PreviewConfig = PreviewConfig()
    validation: ValidationConfig = ValidationConfig()
    sweep: SweepConfig | None = None
    tensorboard: bool = True
    wandb: bool = False

    @field_validator("objective")
    @classmethod
    def _sampling_of_the_kind(cls, objective: ObjectiveConfig, known: ValidationInfo) -> ObjectiveConfig:
        if "timestep_sampling" in objective.model_fields_set or "tuner" not in known.data:
            return objective
        sampling = default_sampling(known.data["tuner"].kind, known.data.get("teacher") is not None)
        return objective.model_copy(update={"timestep_sampling": sampling})

    @property
    def phases(self) -> Phases:
        """What is said of the phases, where there is a teacher."""
        captioned = any((each.captions or self.data.captions) != "none" for each in (self.data.folders or (self.data,)))
        return Phases(self.teacher.residuals, self.teacher.predictions, captioned)

    def values(self) -> dict[str, Any]:
        """All of it as JSON has it; nothing of a teacher where there is none, as runs without one were always told."""
        values = super().values()
        if self.teacher is None:
            del values["teacher"]
        return values

    @property
    def run_folder(self) -> Path:
        """Where the run keeps what is not the tuner's file."""
        return self.run or self.output.with_suffix(".run")

    @model_validator(mode="after")
    def _condition_fits_kind(self) -> TrainConfig:
        if (self.tuner.kind == "csc") != (self.data.condition is not None):
            raise ValueError(
                "expected data.condition for kind csc and none for kind sc, "
                f"found {'none' if self.data.condition is None else self.data.condition.type} for {self.tuner.kind}"
            )
        if self.teacher is not None and self.tuner.kind == "sc":
            raise ValueError(
                "expected no teacher for kind sc, found one; a ControlNet can only teach a control, kind csc"
            )
        for key in ("teacher", "sweep"):
            if getattr(self, key) is not None and self.loop.minutes is not None:
                raise ValueError(
                    f"expected loop.steps or loop.epochs with {key}, which has to know its updates beforehand, found "
                    "loop.minutes"
                )
        if self.teacher is not None and self.sweep is not None:
            raise ValueError("expected a teacher or a sweep, found both; take one of them out")
        if self.data.shards is not None and self.loop.epochs is not None:
            raise ValueError(
                "expected loop.steps or loop.minutes for shards, whose pictures are not counted, found loop.epochs"
            )
        if self.previews.hints and self.tuner.kind == "sc":
            raise ValueError(f"expected no previews.hints for kind sc, found {len(self.previews.hints)}; remove them")
        if self.output.suffix != ".safetensors":
            raise ValueError(f"expected an output that ends in .safetensors, found {self.output.name}")
        return self
