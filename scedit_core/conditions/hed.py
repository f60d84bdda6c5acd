"""HED: a network that sees soft edges, with the names of ControlNet's weight file (ControlNetHED, Apache-2.0).

Holistically-nested edge detection (arXiv 1504.06375): five stages of a VGG, each with an edge map of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConditionError
from ..weight_files import first_line, shown

_STAGES = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))  # channels in, out, convolutions
_SMALLEST = 2 ** (len(_STAGES) - 1)  # pixels a side that leave one after all halvings


class HEDStage(nn.Module):
    """3x3 convolutions with ReLU, and a projection of their result to one edge map."""

    def __init__(self, channels: int, width: int, count: int, device=None, dtype=None, operations: Any = nn) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        widths = [channels] + [width] * count
        self.convs = nn.ModuleList(operations.Conv2d(widths[i], width, 3, padding=1, **place) for i in range(count))
        self.projection = operations.Conv2d(width, 1, 1, **place)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h [B,C,H,W] -> features [B,width,H,W], edge map [B,1,H,W]."""
        for conv in self.convs:
            h = F.relu(conv(h))
        return h, self.projection(h)


class HED(nn.Module):
    """Soft edges of pictures.  Takes `device`, `dtype` and `operations` like the modules of the host."""

    def __init__(self, device=None, dtype=None, operations: Any = nn) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1, device=device, dtype=dtype))
        for i, stage in enumerate(_STAGES, start=1):
            self.add_module(f"block{i}", HEDStage(*stage, device=device, dtype=dtype, operations=operations))

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures [B,3,H,W] in 0..1 -> edges [B,H,W] in 0..1, 1 being an edge.

        The edge maps of all stages, grown to the picture's size and averaged before the sigmoid.
        """
        height, width = pictures.shape[-2:]
        padding = (0, max(0, _SMALLEST - width), 0, max(0, _SMALLEST - height))
        h = F.pad(pictures * 255 - self.norm.to(pictures), padding, mode="replicate")
        size = tuple(h.shape[-2:])
        total = 0
        for i in range(1, len(_STAGES) + 1):
            h, edges = getattr(self, f"block{i}")(F.max_pool2d(h, 2) if i > 1 else h)
            total = total + F.interpolate(edges, size=size, mode="bilinear", align_corners=False)
        return torch.sigmoid(total[:, 0, :height, :width].float() / len(_STAGES))


def load_hed(path: Path, dtype: torch.dtype = torch.float32, operations: Any = nn) -> HED:
    """The network with the weights of ControlNetHED.pth, or of a safetensors file with the same names.

    On the CPU, in `dtype`, in evaluation mode.  Raises ConditionError for a file that is damaged or something else.
    """
    network = HED(device="meta", operations=operations)
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = {k: v.to(dtype, copy=True) for k, v in state.items()}  # no map of a file that may be cut short
        network.load_state_dict(state, assign=True)
    except Exception as error:  # whatever a damaged file makes a parser raise, it is a bad file
        raise ConditionError(
            f"{shown(path)}: expected the weights of ControlNetHED, found a file that cannot be read as such; "
            f"download it again ({first_line(error)})"
        ) from error
    return network.eval().requires_grad_(False)
