"""What all condition nodes are: a picture in, options from widgets or a tuner, detectors, the condition image out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor, nn

from ...scedit_core.conditions.trained import trained_options
from ...scedit_core.errors import ConditionError
from ..host.control import SCEditControl
from .detectors import fingerprint, loaded, managed_detector

_PACKAGES = {"cv2": "opencv-python", "transformers": "transformers"}
_BOUNDS = ("min", "max", "step")
_KINDS = {float: io.Float, int: io.Int, bool: io.Boolean, str: io.Combo}


def needs(*modules: str) -> None:
    """Raises ImportError where one is not installed: the nodes of that file are then missing, and the log says so.

    Looks without importing, because each takes the host a second to start.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"{module} is not installed; python -m pip install {_PACKAGES[module]}", name=module)


CONDITION = io.Image.Output(
    display_name="IMAGE", tooltip="The condition image, as large as the picture, for Apply nodes."
)
CSC_TUNER = io.ControlNet.Input(
    "csc_tuner",
    optional=True,
    tooltip="A tuner from Load CSC-Tuner whose file says how its condition was made: it then sets the options "
    "above. A file that says nothing leaves them as they are.",
)


@dataclass(frozen=True)
class Condition:
    """A row of the table.

    node_id, title, description: as the host and its page know the node.
    options:       a class of scedit_core.conditions, whose fields a connected tuner sets, else the widgets.
    widgets:       by name, in the page's order: the tooltip of an option, or an input that is none.
    allowed:       for options that are numbers (lowest, highest, step), for those that are text the choices.
    make:          of a picture [1,H,W,C], (picture, *networks, options, device), without detectors (picture, options).
    detectors:     by the option that names each, or by its own name: what makes a network of its weight file.
    working_bytes: what they take beside their weights, for pictures of that height and width.
    more, outputs: inputs after image and widgets; what comes out.
    instead:       which of these does without an image.
    """

    node_id: str
    title: str
    description: str
    options: type
    widgets: dict[str, str | io.Input]
    allowed: dict[str, Sequence] = field(default_factory=dict)
    make: Callable | None = None
    detectors: dict[str, Callable[[Path], nn.Module]] = field(default_factory=dict)
    working_bytes: Callable[[int, int], int] | None = None
    more: tuple[io.Input, ...] = (CSC_TUNER,)
    outputs: tuple[io.Output, ...] = (CONDITION,)
    instead: str | None = None

    def schema(self) -> io.Schema:
        """What the host asks for."""
        tooltip = "The picture, or a batch of them; transparency is ignored."
        image = io.Image.Input("image", optional=self.instead is not None, tooltip=tooltip)
        widgets = [self._widget(name, each) if isinstance(each, str) else each for name, each in self.widgets.items()]
        return io.Schema(
            node_id=self.node_id,
            display_name=self.title,
            category="SCEdit/conditions",
            description=self.description,
            inputs=[*([*widgets, image] if self.instead else [image, *widgets]), *self.more],
            outputs=list(self.outputs),
        )

    def _widget(self, name: str, tooltip: str) -> io.Input:
        default, allowed = getattr(self.options, name), self.allowed.get(name, ())
        bounds = {"options": list(allowed)} if isinstance(default, str) else dict(zip(_BOUNDS, allowed, strict=False))
        return _KINDS[type(default)].Input(name, default=default, tooltip=tooltip, **bounds)


class ConditionNode(io.ComfyNode):
    """IMAGE -> IMAGE, as its row says; with a `made` of its own where it gives or takes more."""

    row: Condition

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See Condition."""
        return cls.row.schema()

    @classmethod
    def fingerprint_inputs(cls, **_inputs: Any) -> str:
        """Changes with the files of any detector that may be used: which one it is a connected tuner may say."""
        return fingerprint(name for option in cls.row.detectors for name in cls.row.allowed.get(option, (option,)))

    @classmethod
    def execute(cls, image: Tensor | None = None, csc_tuner: Any = None, **inputs: Any) -> io.NodeOutput:
        """The outputs, tensors among them on the host's device for that, the first of them shown on the node.

        Raises ConditionError for pictures and options that the core refuses, for a control that is no CSC-Tuner, for a
        tuner of another condition, and where there is neither an image nor what does without one.
        """
        names = [each.name for each in fields(cls.row.options) if each.name in inputs]
        options = cls.row.options(**{name: inputs.pop(name) for name in names})
        if csc_tuner is not None:
            if not isinstance(csc_tuner, SCEditControl):
                raise ConditionError(
                    f"csc_tuner: expected a control from Load CSC-Tuner, found {type(csc_tuner).__name__}; disconnect "
                    "it"
                )
            options = trained_options(csc_tuner.tuner.tuner.metadata, options)
        if image is None and inputs.get(cls.row.instead) is None:
            raise ConditionError(
                f"{cls.row.title}: expected an image or {cls.row.instead}, found neither; connect one of them"
            )
        device = comfy.model_management.intermediate_device()
        made = [each.to(device) if isinstance(each, Tensor) else each for each in cls.made(image, options, **inputs)]
        return io.NodeOutput(*made, ui=ui.PreviewImage(made[0], cls=cls))

    @classmethod
    def made(cls, image: Tensor, options: Any) -> tuple:
        """What the outputs are, for the inputs that are no options."""
        return (torch.cat(cls.one_by_one(image, options)),)

    @classmethod
    def one_by_one(cls, image: Tensor, options: Any) -> list:
        """What `make` gives for each picture of the batch [B,H,W,C], with the host's progress bar."""
        networks, more = [], [options]
        if cls.row.detectors:
            named = {getattr(options, name, name): load for name, load in cls.row.detectors.items()}
            found = [managed_detector(name, load) for name, load in named.items()]
            more.append(loaded(cls.row.working_bytes(*image.shape[1:3]), *found))
            networks = [each.patcher.model for each in found]
        bar, made = comfy.utils.ProgressBar(len(image)), []
        for picture in image.split(1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            made.append(cls.row.make(picture, *networks, *more))
            bar.update(1)
        return made
