"""What the sections of a configuration have in common, and the kinds of numbers that they hold."""

from __future__ import annotations

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
