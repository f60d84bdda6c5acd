"""Errors that a user can act on.  Each message is one sentence: what, where, expected, found, what to do."""

from __future__ import annotations


class SCEditError(ValueError):
    """Base of the errors that this package raises for bad input."""


class TunerFileError(SCEditError):
    """A file or folder is missing, damaged, or no SCEdit tuner that can be read."""


class UnknownLayoutError(TunerFileError):
    """A tuner file does not tell which U-Net it is for: give its layout."""


class LayoutError(SCEditError):
    """A model has no skips to edit, or a tuner was made for another U-Net."""


class HintError(SCEditError):
    """A hint image has the wrong shape, size or batch."""


class ConditionError(SCEditError):
    """A condition image cannot be made: bad pictures, masks or options, or a missing or damaged detector."""


class ConfigError(SCEditError):
    """A configuration file is missing, is no YAML, or has a key or value that the trainer does not know."""


class BaseModelError(SCEditError):
    """The base model is missing or of a kind that the trainer cannot use."""


class DataError(SCEditError):
    """The training images or their captions are missing or unreadable."""


class TrainingError(SCEditError):
    """Training could not go on."""


def in_short(error: object, most: int = 160) -> str:
    """What an error of another library says, in one line of at most so many letters."""
    return " ".join(str(error).split())[:most] or type(error).__name__
