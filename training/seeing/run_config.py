"""config.yaml in the run folder: the configuration of the run with every default spelled out, fit to run again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from scedit_core.fitting.report import CONFIG_FILE
from scedit_core.saving import replace_file

from ..config import TrainConfig
from ..config_section import with_paths


def write_run_config(config: TrainConfig) -> Path:
    """Write the configuration into the run folder and return the path.  Raises OSError where that cannot be done."""
    text = yaml.safe_dump(plain_values(config), sort_keys=False, allow_unicode=True, width=100)
    return replace_file(config.run_folder / CONFIG_FILE, lambda part: part.write_text(text, "utf-8"))


def plain_values(config: TrainConfig) -> dict[str, Any]:
    """Values as YAML has them; paths absolute, since the run folder is not where they started."""
    return with_paths(config, lambda _, path: os.path.abspath(path)).model_dump(warnings=False)  # of paths as text
