"""Depth: near is light, as the released depth controls were trained (MiDaS DPT-hybrid); Depth Anything V2 as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .local_models import load_local, resized
from .pictures import as_pictures, from_grey

_LONGEST_SHORT_SIDE, _MULTIPLE = 1024, 64  # the authors' working size for MiDaS
# The deepest fusion layer has no second input; released DPT weights leave out what would take it.
_UNUSED = ("neck.fusion_stage.layers.0.residual_layer1.",)


@dataclass(frozen=True)
class DepthOptions:
    """invert: near is dark; detector: which of the annotators makes it."""

    invert: bool = False
    detector: str = "dpt-hybrid-midas"


class DepthNetwork(nn.Module):
    """A depth model of transformers (DPT, Depth Anything), with the preparation of its input.

    model, processor: as `load_local` gives them.
    """

    def __init__(self, model: nn.Module, processor) -> None:
        super().__init__()
        self.model = model
        for name in ("image_mean", "image_std"):
            self.register_buffer(name, torch.tensor(getattr(processor, name), dtype=torch.float32)[:, None, None])
        self.own_size = None
        if model.config.model_type == "depth_anything":  # made for one size; MiDaS was used at the picture's own
            self.own_size = min(processor.size["height"], processor.size["width"])
        elif hasattr(model, "dpt"):
            model.neck.register_forward_pre_hook(self._any_shape)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [1,3,H,W] in 0..1 -> nearness [1,h,w] at a working size of the model's, of any scale."""
        short_side = self.own_size or min(*pictures.shape[-2:], _LONGEST_SHORT_SIDE)
        multiple = _MULTIPLE if self.own_size is None else self.model.config.backbone_config.patch_size
        prepared = (resized(pictures, short_side, multiple) - self.image_mean) / self.image_std
        if hasattr(self.model, "dpt"):  # it fits its positions to any size, but the hybrid first compares with this
            self.model.dpt.embeddings.image_size = tuple(prepared.shape[-2:])
        return self.model(pixel_values=prepared).predicted_depth

    def _any_shape(self, neck: nn.Module, inputs: tuple) -> tuple:
        """Tell DPT's neck how many patches there are a side, which it else takes for equal."""
        patches = self.model.config.patch_size
        height, width = self.model.dpt.embeddings.image_size
        return inputs[0], height // patches, width // patches


def load_depth(folder: Path) -> DepthNetwork:
    """The model in a local folder, on the CPU.  Raises ConditionError (see `load_local`)."""
    return DepthNetwork(*load_local("AutoModelForDepthEstimation", folder, _UNUSED)).eval()


@torch.inference_mode()
def depth(
    images: Tensor,
    network: DepthNetwork,
    options: DepthOptions | None = None,
    device: torch.device | str | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Tensor:
    """Depth of images [B,H,W,C] in 0..1: float [B,H,W,3], three equal channels, on the images' device.

    Shifted and scaled to 0..1 over each picture; a picture of one depth is black.

    network:    on `device`, which is the images' by default.
    on_picture: called after each picture; they go through the network one by one, which bounds the memory.

    Source: the authors' annotator (scepter.modules.annotator.midas_op), without its rounding to bytes.  Raises
    ConditionError for images that `as_pictures` refuses.
    """
    options = options or DepthOptions()
    pictures = as_pictures(images)
    found = torch.empty(pictures.shape[:3], device=pictures.device)
    for picture, out in zip(pictures, found, strict=True):
        near = network(picture.to(device or picture.device).permute(2, 0, 1)[None]).float()
        near = near - near.min()
        near = near / near.max().clamp(min=torch.finfo(torch.float32).tiny)
        near = F.interpolate(near[None], size=tuple(out.shape), mode="bilinear", align_corners=False)[0, 0]
        out.copy_(1 - near if options.invert else near)
        on_picture()
    return from_grey(found)
