"""What the condition nodes share: the widgets, the tuner that sets the options, progress, and a preview."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..scedit_core.conditions.trained import trained_options
from ..scedit_core.errors import ConditionError
from .host.control import SCEditControl

Options, Made = TypeVar("Options"), TypeVar("Made")
CATEGORY = "SCEdit/conditions"
_PACKAGES = {"cv2": "opencv-python-headless", "transformers": "transformers"}


def needs(*modules: str) -> None:
    """Raises ImportError where one is not installed: the nodes of that file are then missing, and the log says so.

    Looks without importing, because each takes the host a second to start.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"{module} is not installed; python -m pip install {_PACKAGES[module]}", name=module)


def image_input(optional: bool = False) -> io.Image.Input:
    """The pictures to make condition images of."""
    return io.Image.Input(
        "image", optional=optional, tooltip="The picture, or a batch of them; an alpha channel is left out."
    )


def csc_tuner_input() -> io.ControlNet.Input:
    """The tuner that sets the options."""
    return io.ControlNet.Input(
        "csc_tuner",
        optional=True,
        tooltip="A tuner from Load CSC-Tuner whose file says how its condition was made: it then sets the options "
        "above. A file that says nothing leaves them as they are.",
    )


def condition_output(name: str = "IMAGE") -> io.Image.Output:
    """The condition image."""
    return io.Image.Output(display_name=name, tooltip="The condition image, as large as the picture, for Apply nodes.")


def chosen(csc_tuner, options: Options) -> Options:
    """The options of the connected tuner where its file names them, else those of the widgets.

    Raises ConditionError for a control that is no CSC-Tuner, and for a tuner of another condition.
    """
    if csc_tuner is None:
        return options
    if not isinstance(csc_tuner, SCEditControl):
        raise ConditionError(
            f"csc_tuner: expected a control from Load CSC-Tuner, found {type(csc_tuner).__name__}; disconnect it"
        )
    return trained_options(csc_tuner.tuner.tuner.metadata, options)


def one_by_one(image: Tensor, make: Callable[[Tensor], Made], join: Callable[[list[Made]], Made] = torch.cat) -> Made:
    """`make` for each picture [1,H,W,C] of a batch, with the host's progress bar; `join` puts the results together."""
    bar = comfy.utils.ProgressBar(len(image))
    made = []
    for picture in image:
        comfy.model_management.throw_exception_if_processing_interrupted()
        made.append(make(picture[None]))
        bar.update(1)
    return join(made) if made else make(image)


def shown(node: type[io.ComfyNode], image: Tensor, *more: Any) -> io.NodeOutput:
    """The outputs, tensors among them on the host's device for that, the first of them shown on the node."""
    device = comfy.model_management.intermediate_device()
    image, *more = (each.to(device) if isinstance(each, Tensor) else each for each in (image, *more))
    return io.NodeOutput(image, *more, ui=ui.PreviewImage(image, cls=node))
