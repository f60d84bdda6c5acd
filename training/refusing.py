"""What is refused before anything is loaded: the same of `check` and of `train`, in one sentence."""

from __future__ import annotations

from scedit_core.errors import ConfigError
from scedit_core.fitting.optimizing import check_optimizer
from scedit_core.fitting.sweep import variants
from scedit_core.fitting.tuner_file import check_writable

from .bases.heads import check_against_base
from .bases.teacher import read_teacher
from .config import TrainConfig
from .places import check_places


def refuse_early(config: TrainConfig, start: str = "auto") -> None:
    """Raise SCEditError for what can be told from the configuration and the heads of the files that it names.

    start: where the run shall begin.
    """
    if config.sweep is not None and start not in ("auto", "never"):
        raise ConfigError(
            f"--resume: expected auto or never for a sweep, found {start}; leave it out, and each tuner resumes from "
            "the newest step that all of them have saved"
        )
    check_optimizer(config.loop)
    if config.teacher is not None:
        read_teacher(config.teacher.controlnet)  # which is only loaded when all pictures are encoded
    members = [] if config.sweep is None else variants(config, config.sweep.values()).values()
    for each in (config, *members):
        check_places(each)
    check_against_base(config, members)
    for each in (config, *members):
        check_writable(each.output)
