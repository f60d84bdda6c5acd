"""Whether pictures follow their hints, and whether a teacher does.

Of a control for edges the edges of a picture are found again and compared with its hint; of all others the model's loss
with its own hint is compared with that with another picture's (validation.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..conditions.canny import canny

_EDGES = ("canny", "lineart", "mlsd", "edges")  # conditions whose hints are the edges of a picture
_APART = 0.02  # of F1: what counts as following better
_DO = "make them with the preprocessor that belongs to it, or invert them"


def edge_f1(pictures: Tensor, hints: Tensor, tolerance: int = 2) -> float:
    """Mean F1, within `tolerance` pixels, of the canny edges of pictures against hints, both [N,3,H,W] in 0..1."""
    found = canny(pictures.permute(0, 2, 3, 1))[..., 0][:, None]
    wanted = (hints[:, :1] > 0.5).float()
    size = 2 * tolerance + 1

    def near(edges: Tensor) -> Tensor:
        return F.max_pool2d(edges, size, 1, tolerance)

    precision = (found * near(wanted)).sum((1, 2, 3)) / found.sum((1, 2, 3)).clamp(min=1)
    recall = (wanted * near(found)).sum((1, 2, 3)) / wanted.sum((1, 2, 3)).clamp(min=1)
    return (2 * precision * recall / (precision + recall).clamp(min=1e-6)).mean().item()


def shows_edges(condition: Any) -> bool:
    """Whether the hints of a condition, a section of the settings or None, are the edges of pictures."""
    return condition is not None and (condition.name if condition.type == "custom" else condition.type) in _EDGES


def edges_followed(pictures: Mapping[str, Sequence[Tensor]], hints: Sequence[Tensor]) -> dict[str, float]:
    """`edge_f1_NAME` of the pictures of each name, each [3,H,W] in 0..1, against the hints of their sizes.

    Lines may be light on dark or dark on light.
    """
    lines = [1 - hint if hint.mean() > 0.5 else hint for hint in hints]
    return {
        f"edge_f1_{name}": mean(
            edge_f1(picture[None], line[None], max(2, picture.shape[-1] // 256))
            for picture, line in zip(each, lines, strict=True)
        )
        for name, each in pictures.items()
    }


def unlike_hints(told: Mapping[str, Any]) -> str | None:
    """What to say of a teacher whose own pictures do not follow their hints; None where they do, or it is not known.

    told: a validation's numbers, or those of `edges_followed` for "teacher" and "without".
    """
    found = None
    if told.get("edge_f1_teacher") is not None and told["edge_f1_teacher"] < told["edge_f1_without"] + _APART:
        found = (
            f"that the edges of its own pictures agree with them by {told['edge_f1_teacher']:.2f} (F1), and those of "
            f"pictures without it by {told['edge_f1_without']:.2f}"
        )
    base, gap, error = (told.get(key) for key in ("loss_without", "teacher_gap", "teacher_gap_error"))
    if gap is not None and error is not None and gap <= 2 * error:
        found = (
            f"that another picture's hint serves it as well (a gap of {gap / base * 100:.2f} % of the loss with a "
            f"standard error of {error / base * 100:.2f} %)"
        )
    return found and f"teacher: expected a ControlNet that follows these hints, found {found}; {_DO}"
