"""The examples are the manual: each is valid, and together they name and explain every key there is."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
import yaml

from training.config import Section, TrainConfig
from training.config_file import load_config

EXAMPLES = sorted((Path(__file__).parents[2] / "training" / "examples").glob("*.yaml"))
_COMMENTED_KEY = re.compile(r"^(\s*)# (\w+:.*)$", re.MULTILINE)  # "# ema: 0.999", which a user may switch on


def sections_of(annotation) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for each in typing.get_args(annotation) for found in sections_of(each)]


def keys_of(section: type[Section], prefix: str = "") -> set[str]:
    """Every key, such as "data.condition.low"."""
    keys = set()
    for name, field in section.model_fields.items():
        inner = [] if prefix == "data.folders." else sections_of(field.annotation)  # its wording is data.wording's
        keys |= {prefix + name} if not inner else set()
        for each in inner:
            keys |= keys_of(each, f"{prefix}{name}.")
    return keys


def keys_in(values: dict, prefix: str = "") -> set[str]:
    keys = set()
    for name, value in values.items():
        several = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
        for each in several:
            section = isinstance(each, dict) and prefix != "data.folders."
            keys |= {f"{prefix}{name}"} | (keys_in(each, f"{prefix}{name}.") if section else set())
    return keys


def switched_on(text: str) -> dict:
    """The values of an example, with the keys that it only proposes."""
    return yaml.safe_load(_COMMENTED_KEY.sub(r"\1\2", text))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_an_example_is_valid_as_it_is_and_with_all_it_proposes(path, tmp_path):
    config = load_config(path)
    assert config.output.parent.is_absolute()
    proposed = tmp_path / path.name
    proposed.write_text(yaml.safe_dump(switched_on(path.read_text("utf-8"))), "utf-8")
    load_config(proposed)


def test_together_they_name_every_key():
    named = set().union(*(keys_in(switched_on(path.read_text("utf-8"))) for path in EXAMPLES))
    assert keys_of(TrainConfig) - named == set()


def test_together_they_explain_every_key():
    """Each key has, in one of the examples, a comment on its line or a line of comment above it."""
    explained = set()
    for path in EXAMPLES:
        before = ""
        for line in path.read_text("utf-8").splitlines():
            key = re.match(r"\s*(?:# )?(\w+):", line)
            if key and (" #" in line[key.end() :] or before.lstrip().startswith("#")):
                explained.add(key[1])
            before = line
    assert {key.rsplit(".", 1)[-1] for key in keys_of(TrainConfig)} - explained == set()


def test_every_condition_has_an_example():
    wanted = {f.annotation.__args__[0] for f in (s.model_fields["type"] for s in condition_sections())}
    assert wanted <= {load_config(p).data.condition.type for p in EXAMPLES if load_config(p).data.condition}


def condition_sections() -> list[type[Section]]:
    from training.config import DataConfig

    return sections_of(DataConfig.model_fields["condition"].annotation)


@pytest.mark.parametrize(
    "text", [*EXAMPLES, *(Path(__file__).parents[2] / name for name in ("README.md", "docs/training.md"))]
)
def test_commands_name_examples_that_exist(text):
    root = Path(__file__).parents[2]
    named = re.findall(r"\S*examples/\w+\.yaml", text.read_text("utf-8"))
    assert named
    for name in named:
        assert (root / name.strip("`(,[")).is_file(), name
