"""YAML of which nothing is lost: a key that stands twice in one section is refused, where YAML takes the last."""

from __future__ import annotations

from typing import Any

from ..errors import SCEditError


def load_yaml(text: str, where: str) -> Any:
    """The values of a YAML text.

    where: begins the sentence of an error.  Raises SCEditError for a key that stands twice, naming its lines, and
    yaml.YAMLError for a text that is none.
    """
    import yaml

    class Once(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise SCEditError(
                        f"{where}: expected each key once, found {key.value[:40]} in line {lines[key.value]} and in "
                        f"line {line}; put what is below them together"
                    )
                lines[key.value] = line
            return super().construct_mapping(node, deep)

    return yaml.load(text, Once)
