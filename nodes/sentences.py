"""What the page shows of an error: the sentence alone, with paths that begin in ComfyUI's own folders."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..scedit_core import SCEditError

_PACK = Path(__file__).resolve().parents[1]


def name_errors(kind: type[SCEditError] = SCEditError) -> None:
    """Have the page write "SCEdit" before the message of an error, in place of the pack's folder and a class."""
    kind.__module__, kind.__qualname__ = "builtins", "SCEdit"
    for each in kind.__subclasses__():
        name_errors(each)


name_errors()


def with_short_paths(text: str) -> str:
    """`text` with models/..., input/... and so on in place of the same paths in full; a command below it stays."""
    text, *commands = text.split("\n")
    folders = {
        folder_paths.models_dir: "models",
        folder_paths.get_input_directory(): "input",
        folder_paths.get_output_directory(): "output",
        folder_paths.get_temp_directory(): "temp",
        str(_PACK): f"custom_nodes/{_PACK.name}",
    }
    for folder, name in folders.items():
        for form in {str(folder), os.path.realpath(folder)}:
            text = text.replace(form + os.sep, name + "/").replace(form, name)
    return "\n".join([text, *commands])


def speaking(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, whose errors have short paths."""
    execute = node.execute.__func__

    @functools.wraps(execute)
    def told(cls, *args, **kwargs):
        try:
            return execute(cls, *args, **kwargs)
        except SCEditError as error:
            error.args = (with_short_paths(str(error)),)
            raise

    node.execute = classmethod(told)
    return node
