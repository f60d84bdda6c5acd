"""config.yaml in the run folder: the configuration of the run with every default spelled out, fit to run again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from ..config import TrainConfig

CONFIG_FILE, REPORT_FILE = "config.yaml", "report.html"


def write_run_config(config: TrainConfig) -> Path:
    """Write the configuration into the run folder and return the path.  Raises OSError where that cannot be done."""
    path = config.run_folder / CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(plain_values(config), sort_keys=False, allow_unicode=True, width=100)
    part = path.with_suffix(".part")
    part.write_text(text, "utf-8")
    os.replace(part, path)
    return path


def plain_values(value: Any, name: str = "") -> Any:
    """Values as YAML has them; paths absolute, since the run folder is not where they started."""
    if isinstance(value, BaseModel):
        return {key: plain_values(getattr(value, key), key) for key in type(value).model_fields}
    if isinstance(value, (list, tuple)):
        return [plain_values(each, name) for each in value]
    if isinstance(value, Path) or (name == "shards" and isinstance(value, str) and "://" not in value):
        return os.path.abspath(value)
    return value
