"""Where files lie: tuners in the host's folder key `scedit`, and detectors."""

from __future__ import annotations

import contextlib
import os

import folder_paths

from ..scedit_core import TunerFileError
from ..scedit_core.conditions.annotators import FOLDER as ANNOTATORS
from ..scedit_core.files import SUFFIXES
from ..scedit_core.locations import SIDECARS
from ..scedit_core.saving import path_inside

KEY = "scedit"


def register(key: str) -> None:
    """Make models/<key> known to the host with the endings of weight files, beside what extra_model_paths added."""
    default = os.path.join(folder_paths.models_dir, key)
    folder_paths.add_model_folder_path(key, default)
    paths, endings = folder_paths.folder_names_and_paths[key]
    folder_paths.folder_names_and_paths[key] = (paths, set(endings) | set(SUFFIXES))
    with contextlib.suppress(OSError):  # a read-only installation keeps its files elsewhere
        os.makedirs(default, exist_ok=True)


# The one choice where there is no tuner: what to do.
NO_TUNER = "put a tuner into models/scedit and press R"


def names(*keys: str) -> list[str]:
    """The file names to choose from in the folders of `keys`, sorted; `NO_TUNER` alone where there is none."""
    return sorted({name for key in keys for name in folder_paths.get_filename_list(key)}) or [NO_TUNER]


def path_of(name: str, *keys: str) -> str:
    """The full path of a chosen file, whichever system's separators the name has.

    Raises TunerFileError that names the folders where it is not.
    """
    if name == NO_TUNER:
        raise TunerFileError(
            f"tuner_name: expected a tuner, found none; {NO_TUNER}, or train one (the help of SCEdit Tuner Info, the i "
            "above that node, lists the tuners to download)"
        )
    for key in keys:
        for form in (name, name.replace("\\", "/")):
            path = folder_paths.get_full_path(key, form)
            if path is not None:
                return path
    searched = ", ".join(path for key in keys for path in folder_paths.get_folder_paths(key))
    raise TunerFileError(
        f"{name}: expected this file in models/{keys[0]}, found none; put it there and press R, or choose another "
        f"(searched: {searched})"
    )


def home() -> str:
    """The folder that new tuners go to."""
    return os.path.realpath(folder_paths.get_folder_paths(KEY)[0])


def path_for(name: str) -> str:
    """Where a new tuner of that name goes in models/scedit, the ending being added.

    Raises TunerFileError for a name that leads out of that folder.
    """
    return path_inside(home(), name)


def fingerprint(name: str | None, *keys: str) -> str:
    """Changes when the chosen file does, or what is read beside it, so that the host runs the loader again.

    The host gives no name where it comes from another node: any file may be meant then.
    """
    if name is None:
        return " ".join(fingerprint(each, *keys) for each in names(*keys))
    try:
        path = path_of(name, *keys)
        beside = [os.path.join(os.path.dirname(path), sidecar) for sidecar in SIDECARS]
        return " ".join(state_of(each) for each in (path, *filter(os.path.isfile, beside)))
    except (TunerFileError, OSError):
        return "missing"


def state_of(path: str | os.PathLike) -> str:
    """Tells a file from what stood there before.  Raises OSError."""
    state = os.stat(path)
    return f"{state.st_mtime_ns}-{state.st_size}-{state.st_ino}"


register(KEY)
register(ANNOTATORS)
