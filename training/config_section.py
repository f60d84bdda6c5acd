"""What the sections of a configuration have in common, and the kinds of numbers that they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Places = Annotated[list[Path], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]


class Section(BaseModel):
    """A group of keys: frozen, and none but those it names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def values(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return self.model_dump(mode="json")


def with_paths(section: Section, change: Callable[[str, Path], Any], prefix: str = "") -> Any:
    """The section with what `change` makes of each path in it, at any depth, called with its key and the path.

    Shards are paths too where they are no addresses.
    """

    def changed(key: str, value: Any) -> Any:
        if isinstance(value, Section):
            return with_paths(value, change, f"{key}.")
        if isinstance(value, list):
            return [changed(f"{key}.{i}" if isinstance(each, Section) else key, each) for i, each in enumerate(value)]
        if key == "data.shards" and isinstance(value, str) and "://" not in value:
            return str(change(key, Path(value)))
        return change(key, value) if isinstance(value, Path) else value

    values = {name: getattr(section, name) for name in type(section).model_fields}
    made = {name: changed(prefix + name, value) for name, value in values.items()}
    return section.model_copy(update={name: value for name, value in made.items() if value != values[name]})
