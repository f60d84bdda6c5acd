"""Segmentation: what is where, in the colours of ADE20K's 150 classes (UperNet, SegFormer, OneFormer)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConditionError
from .local_models import bad_folder, load_local, resized
from .pictures import as_pictures

_MULTIPLE = 32  # what the deepest stage of such models divides a side by
_GROWN = 10  # classes whose logits are as large as the picture at once
# The colour of each class as RRGGBB, in the order of ADE20K: wall, building, sky, floor, tree, ceiling, road, bed, ...
_COLOURS = """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33
ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff
eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad
0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa
8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff
00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
PALETTE = tuple(_COLOURS.split())
NOTHING = 255  # the label of pixels that belong to no class


@dataclass(frozen=True)
class SegmentationOptions:
    """detector: which of the annotators makes it."""

    detector: str = "upernet-convnext-small"


def palette_picture(labels: Tensor) -> Tensor:
    """Labels [B,H,W] (whole numbers, 0 to 149, as ADE20K counts from wall) as colours [B,H,W,3] in 0..1.

    255 is nothing, and black.  Raises ConditionError for other shapes, dtypes and labels.
    """
    if labels.ndim != 3 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ConditionError(
            f"labels: expected whole numbers [B,H,W], found {str(labels.dtype)[6:]} {list(labels.shape)}; "
            "give the class of each pixel"
        )
    strange = (labels < 0) | ((labels >= len(PALETTE)) & (labels != NOTHING))
    if strange.any():
        raise ConditionError(
            f"labels: expected classes from 0 to {len(PALETTE) - 1}, and {NOTHING} for nothing, found "
            f"{int(labels[strange][0])}; count from 0 for wall"
        )
    colours = torch.zeros(NOTHING + 1, 3, device=labels.device)
    colours[: len(PALETTE)] = torch.tensor([list(bytes.fromhex(c)) for c in PALETTE]) / 255
    return colours[labels.long()]


def labels_of(images: Tensor, from_one: bool = False) -> Tensor:
    """The labels [B,H,W] in pictures of a label map [B,H,W,C], whose grey of 0..255 is the class of each pixel.

    from_one: they count from 1 for wall, and 0 is nothing, as in ADE20K's own files; else from 0 for wall.

    Raises ConditionError for pictures that are coloured, or lie between whole numbers.
    """
    pictures = as_pictures(images)
    values = pictures[..., 0] * 255
    labels, off = values.round(), 0.15 if images.dtype == torch.float16 else 0.01  # its steps near 255 are 0.12
    if (pictures != pictures[..., :1]).any() or ((values - labels).abs() > off).any():
        raise ConditionError(
            "labels: expected grey pictures whose values of 0..255 are classes, found others; resize the map without "
            "smoothing, and do not colour it"
        )
    labels = labels.long()
    if from_one:
        labels = torch.where((labels == 0) | (labels == NOTHING), NOTHING, labels - 1)
    return labels


def stretched(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels [B,h,w] at another size [B,H,W], each pixel's being that of the nearest."""
    if len(labels) == 0:  # nothing to stretch, which `interpolate` refuses
        return labels.new_empty(0, *size)
    return F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()


class SegmentationNetwork(nn.Module):
    """A segmentation model of transformers, with the preparation of its input.

    model:             UperNet, SegFormer, or with `task` OneFormer.
    mean, std:         of the three channels that it was trained on.
    short_side:        in pixels, 512 for most models of ADE20K.
    task:              [1,n], the tokens that tell OneFormer what to do.
    """

    def __init__(self, model: nn.Module, mean, std, short_side: int, task: Tensor | None = None) -> None:
        super().__init__()
        self.model, self.short_side = model, short_side
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])
        self.register_buffer("task", task)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [1,3,H,W] in 0..1 -> logits [1,150,h,w] at a working size of the model's."""
        prepared = (resized(pictures, self.short_side, _MULTIPLE) - self.mean) / self.std
        if self.task is None:
            return self.model(pixel_values=prepared).logits
        found = self.model(pixel_values=prepared, task_inputs=self.task)
        classes = found.class_queries_logits.softmax(-1)[..., :-1]  # the last one is no class
        return torch.einsum("bqc,bqhw->bchw", classes, found.masks_queries_logits.sigmoid())


def load_segmentation(folder: Path) -> SegmentationNetwork:
    """The model in a local folder, on the CPU.

    Raises ConditionError (see `load_local`), and for a model with other classes than the 150 of ADE20K.
    """
    universal = _read(folder, "config.json").get("model_type") == "oneformer"
    if universal:  # its image processor would ask the network for names of classes, which are not needed here
        model = load_local("AutoModelForUniversalSegmentation", folder, processor=False)[0]
        task = _task(folder, model.config.task_seq_len)
    else:
        model, task = load_local("AutoModelForSemanticSegmentation", folder, processor=False)[0], None
    if model.config.num_labels != len(PALETTE):
        raise ConditionError(
            f"{folder}: expected the {len(PALETTE)} classes of ADE20K, found {model.config.num_labels}; choose a model "
            "that was trained on ADE20K"
        )
    preparation = _read(folder, "preprocessor_config.json")
    try:
        size = preparation["size"]
        sides = [int(side) for side in (size.values() if isinstance(size, dict) else [size]) if side]
        mean, std = ([float(v) for v in preparation[key]] for key in ("image_mean", "image_std"))
        return SegmentationNetwork(model, mean, std, min(sides), task).eval()
    except (KeyError, TypeError, ValueError) as error:
        raise bad_folder(folder, "a preprocessor_config.json with size, image_mean and image_std", error) from error


def _read(folder: Path, name: str) -> dict:
    """A JSON file of the folder."""
    try:
        return dict(json.loads((folder / name).read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise bad_folder(folder, name, error) from error


def _task(folder: Path, length: int) -> Tensor:
    """The tokens of OneFormer's semantic task [1,length], zeros after their end."""
    import transformers

    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        tokens = tokenizer("the task is semantic", padding="max_length", max_length=length, truncation=True)
        return torch.tensor([[i * m for i, m in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)]])
    except Exception as error:  # whatever damaged files make it raise, they are bad files
        raise bad_folder(folder, "the tokenizer of OneFormer", error) from error


@torch.inference_mode()
def segmentation(
    images: Tensor,
    network: SegmentationNetwork,
    device: torch.device | str | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Tensor:
    """The classes in images [B,H,W,C] in 0..1 as colours: float [B,H,W,3] in 0..1, on the images' device.

    network:    on `device`, which is the images' by default.
    on_picture: called after each picture; they go through the network one by one, which bounds the memory.

    Source: paper, section 4.1 (condition types).  Raises ConditionError for images that `as_pictures` refuses.
    """
    pictures = as_pictures(images)
    labels = torch.empty(pictures.shape[:3], dtype=torch.long, device=pictures.device)
    for picture, out in zip(pictures, labels, strict=True):
        logits = network(picture.to(device or picture.device).permute(2, 0, 1)[None]).float()
        out.copy_(_largest(logits, tuple(out.shape)))
        on_picture()
    return palette_picture(labels)


def _largest(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The class [H,W] whose logit of [1,N,h,w] is largest once they are as large as the picture.

    A few classes at a time: 150 of them for each pixel would take gigabytes.
    """
    best = torch.full(size, -torch.inf, device=logits.device)
    found = torch.zeros(size, dtype=torch.long, device=logits.device)
    for first in range(0, logits.shape[1], _GROWN):
        few = F.interpolate(logits[:, first : first + _GROWN], size=size, mode="bilinear", align_corners=False)
        value, label = few[0].max(0)
        better = value > best
        best, found = torch.where(better, value, best), torch.where(better, label + first, found)
    return found
