"""The trainer's configuration: YAML, checked by pydantic, unknown keys refused.  Relative paths start at the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TunerConfig(_Section):
    """What is trained.  `kernel`, `hint_ratio` and `stem_width` are for controls (kind csc) only."""

    kind: Literal["sc", "csc"]
    ratio: Annotated[float, Field(gt=0, le=8)] = 1.0
    blocks: list[Annotated[int, Field(ge=0)]] | None = None
    kernel: Literal[1, 3] = 1
    hint_ratio: Annotated[int, Field(ge=1, le=8)] = 1
    stem_width: Annotated[int, Field(ge=8, le=1280)] = 256


class CannyConfig(_Section):
    """Canny hints, made from the training images: thresholds on 0..255, blur as sigma in pixels."""

    type: Literal["canny"]
    low: Annotated[float, Field(ge=0, le=255)] = 100.0
    high: Annotated[float, Field(ge=0, le=255)] = 200.0
    blur: Annotated[float, Field(ge=0, le=20)] = 0.0


class DataConfig(_Section):
    """A folder of images, each with its caption in a .txt file of the same name."""

    folder: Path
    resolution: Annotated[int, Field(ge=64, le=4096, multiple_of=64)] = 512
    captions: Literal["required", "optional"] = "required"
    condition: CannyConfig | None = None


class LoopConfig(_Section):
    """How long and how fast."""

    steps: Annotated[int, Field(ge=1)] = 1000
    batch: Annotated[int, Field(ge=1)] = 4
    accumulate: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 50
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = 0


class TrainConfig(_Section):
    """One training run: a base model, a tuner, data, a loop, and the file that comes out."""

    base: Path
    output: Path
    tuner: TunerConfig
    data: DataConfig
    loop: LoopConfig = LoopConfig()
    title: str | None = None

    @model_validator(mode="after")
    def _condition_fits_kind(self) -> TrainConfig:
        if (self.tuner.kind == "csc") != (self.data.condition is not None):
            raise ValueError(
                "expected data.condition for kind csc and none for kind sc, "
                f"found {'none' if self.data.condition is None else self.data.condition.type} for {self.tuner.kind}"
            )
        if self.output.suffix != ".safetensors":
            raise ValueError(f"expected an output that ends in .safetensors, found {self.output.name}")
        return self


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML file.  Raises ConfigError, in one sentence that names the first wrong key."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a configuration file, found none ({error.strerror}); check the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())[:160]
        raise ConfigError(f"{path}: expected YAML, found something else ({line}); correct that line") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys such as base, output, tuner and data, found {type(values).__name__}")
    config = parse_config(values, str(path))
    return config.model_copy(
        update={
            "base": _resolved(path, config.base),
            "output": _resolved(path, config.output),
            "data": config.data.model_copy(update={"folder": _resolved(path, config.data.folder)}),
        }
    )


def parse_config(values: dict, where: str = "configuration") -> TrainConfig:
    """Check a dictionary.  Raises ConfigError; `where` begins its sentence."""
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "file"
        known = ", ".join(_section_of(first["loc"]).model_fields)
        if first["type"] == "extra_forbidden":
            reason = f"{key}: expected one of the keys {known}, found an unknown key; correct or remove it"
        elif first["type"] == "missing":
            reason = f"{key}: expected a value, found none; add this key"
        else:
            reason = f"{key}: {first['msg'].removeprefix('Value error, ')}, found {first['input']!r:.80}; correct it"
        raise ConfigError(f"{where}: {reason}") from error


def _section_of(location: tuple) -> type[BaseModel]:
    sections = {"tuner": TunerConfig, "data": DataConfig, "loop": LoopConfig}
    if len(location) > 2 and location[:2] == ("data", "condition"):
        return CannyConfig
    return sections.get(location[0], TrainConfig) if len(location) > 1 else TrainConfig


def _resolved(config_path: Path, path: Path) -> Path:
    return path if path.is_absolute() else config_path.parent / path
