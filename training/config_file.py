"""Reading a configuration from YAML; each refusal is one sentence that names the key."""

from __future__ import annotations

import os
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from scedit_core.errors import ConfigError, in_short
from scedit_core.fitting.yaml_text import load_yaml

from .config import TrainConfig
from .config_section import Section, with_paths


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML file.  Raises ConfigError, in one sentence that names the first wrong key, and SCEditError for a key
    that stands twice."""
    path = Path(path)
    try:
        values = load_yaml(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a configuration file, found none ({error.strerror}); check the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: expected YAML, found something else ({in_short(error)}); correct that line"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys such as base, output, tuner and data, found {type(values).__name__}")
    return with_paths(parse_config(values, str(path)), lambda _, named: path.parent / os.path.expanduser(named))


def parse_config(values: dict, where: str = "configuration") -> TrainConfig:
    """Check a dictionary.  Raises ConfigError; `where` begins its sentence."""
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        section = _section_at(first["loc"])
        key = ".".join(str(part) for part in first["loc"] if not _is_tag(part, first["loc"])) or ""
        if first["type"] == "extra_forbidden":
            known = ", ".join(section.model_fields)
            reason = f"{key}: expected one of the keys {known}, found an unknown key; correct or remove it"
        elif first["type"] == "missing":
            reason = f"{key}: expected a value, found none; add this key"
        elif first["type"].startswith("union_tag"):
            kinds = _sections_of(section.model_fields[first["loc"][-1]].annotation)
            known = ", ".join(typing.get_args(kind.model_fields["type"].annotation)[0] for kind in kinds)
            reason = f"{key}.type: expected one of {known}, found {first['input']!r:.80}; correct it"
        else:
            said = first["msg"].removeprefix("Value error, ")
            found = "" if ", found " in said else f", found {first['input']!r:.80}"  # a sentence of ours says it itself
            reason = f"{key}: {said}{found}{'' if ';' in said else '; correct it'}"
        raise ConfigError(f"{where}: {reason.removeprefix(': ')}") from error


def _section_at(location: tuple) -> type[Section]:
    """The section in which pydantic found the key at `location`."""
    section: type[Section] = TrainConfig
    for part in location[:-1]:
        inner = _sections_of(section.model_fields[part].annotation) if part in section.model_fields else []
        tag = location[location.index(part) + 1] if len(inner) > 1 else None
        inner = [s for s in inner if tag is None or typing.get_args(s.model_fields["type"].annotation) == (tag,)]
        if not inner:
            continue
        section = inner[0]
    return section


def _sections_of(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, Section) else []
    return [found for each in typing.get_args(annotation) for found in _sections_of(each)]


def _is_tag(part: Any, location: tuple) -> bool:
    """Whether pydantic put this part in to say which of several was meant."""
    if "LooksConfig" in str(part):  # of the two that looks may be
        return True
    at = location.index(part)
    return at > 0 and location[at - 1] == "condition" and at < len(location) - 1
