"""Errors of the trainer that a user can act on; the command line prints the sentence and exits with 2."""

from scedit_core.fitting.errors import BaseModelError, ConfigError, DataError, TrainingError

__all__ = ["BaseModelError", "ConfigError", "DataError", "TrainingError"]
