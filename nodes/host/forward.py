"""One forward of the U-Net: all SCEdit edits in it, as one sum on each skip.

A skip passes three files: this one, which stands where the host calls output-block patches; `run.py`, which keeps what
the edits are made of; and `scedit_core/folding.py`, which computes.

The host calls the patches of its list one after another, so a second patch would read a skip that the first has edited,
while the formula wants every residual to read the unedited skip.  So `edit_forward`, a wrapper around one forward, puts
one `Forward` in the place of the first SCEdit patch, and takes the others out: the result does not depend on the order
of the nodes.  A patch of another kind, such as FreeU, is heard before the edits where it stands before the first SCEdit
patch, and after them everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...scedit_core.folding import FoldedEdits, edit_folded
from .patch import SkipPatch
from .run import Picture

KEY = "scedit"
_LIST = "output_block_patch"


def edit_forward(executor: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A DIFFUSION_MODEL wrapper of the host: the forward of latents `x` [B,C,h,w] with all edits in its patches."""
    found = [i for i, each in enumerate(args) if isinstance(each, dict) and "patches" in each]
    options = args[found[-1]] if found else kwargs.get("transformer_options", {})
    listed = options.get("patches", {}).get(_LIST, ())
    first = next((i for i, patch in enumerate(listed) if isinstance(patch, SkipPatch)), None)
    if first is None:
        return executor(x, *args, **kwargs)
    others = [patch for patch in listed[first:] if not isinstance(patch, SkipPatch)]
    patches = [*listed[:first], Forward.of(listed, x, options), *others]
    options = {**options, "patches": {**options["patches"], _LIST: patches}}  # the caller may use its own again
    if not found:
        return executor(x, *args, **{**kwargs, "transformer_options": options})
    return executor(x, *args[: found[-1]], options, *args[found[-1] + 1 :], **kwargs)


def wrapped(wrappers: dict[str, dict]) -> dict[str, dict]:
    """The host's dict of wrappers, with `edit_forward` in it once."""
    kind = WrappersMP.DIFFUSION_MODEL
    return {**wrappers, kind: {**wrappers.get(kind, {}), KEY: [edit_forward]}}


class Forward:
    """The edits of one forward; the host calls it for each output block."""

    def __init__(self, patches: list[SkipPatch], picture: Picture) -> None:
        self.patches, self.picture = patches, picture
        self.groups: list[FoldedEdits] | None = None

    @classmethod
    @torch.compiler.disable
    def of(cls, listed: list, x: Tensor, options: dict[str, Any]) -> Forward:
        """That of the SCEdit patches in `listed`, for latents `x`."""
        patches = [patch for patch in listed if isinstance(patch, SkipPatch)]
        return cls(patches, Picture.of(x.shape, options, patches[0].run.tiled))

    @torch.compiler.disable
    def __call__(self, h: Tensor, hsp: Tensor | None, transformer_options: dict[str, Any]) -> tuple:
        """`h`, and the skip `hsp` [B,C,h,w] edited; some models have none."""
        if hsp is None:
            return h, hsp
        if self.groups is None:
            self.groups = self.patches[0].run.folded(self.patches, self.picture, hsp)
        return h, edit_folded(transformer_options["block"][1], hsp, self.groups)

    def to(self, device_or_dtype: torch.device | torch.dtype) -> Forward:
        """Itself: it follows the skips."""
        return self
