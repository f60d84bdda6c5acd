"""Errors of the trainer that a user can act on; the command line prints the sentence and exits with 2."""

from __future__ import annotations

from .. import SCEditError


class ConfigError(SCEditError):
    """A configuration file is missing, is no YAML, or has a key or value that the trainer does not know."""


class BaseModelError(SCEditError):
    """The base model is missing or of a kind that the trainer cannot use."""


class DataError(SCEditError):
    """The training images or their captions are missing or unreadable."""


class TrainingError(SCEditError):
    """Training could not go on."""
