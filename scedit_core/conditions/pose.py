"""Pose: people as OpenPose draws them, found by RT-DETR and ViTPose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ConditionError
from .keypoints import Frame, Person, from_coco
from .local_models import load_local
from .openpose import draw_people
from .pictures import as_pictures
from .ranges import check_range

_COCO_POINTS = 17
_AT_ONCE = 8  # people that go through the estimator together


@dataclass(frozen=True)
class PoseOptions:
    """person_threshold, joint_threshold: scores from 0 to 1 that a person and a joint must exceed.

    hands:           draw hands where the keypoints have them; ViTPose's have none.
    person_detector: which of the annotators finds people; detector: which finds their joints.

    Raises ConditionError for thresholds outside 0..1.
    """

    person_threshold: float = 0.3
    joint_threshold: float = 0.3
    hands: bool = True
    person_detector: str = "rtdetr-r50"
    detector: str = "vitpose-base"

    def __post_init__(self) -> None:
        check_range("pose person_threshold", self.person_threshold, 0, 1)
        check_range("pose joint_threshold", self.joint_threshold, 0, 1)


class PersonFinder(nn.Module):
    """An object detector of transformers (RT-DETR) that gives people only.

    model, processor: as `load_local` gives them.  Raises ConditionError for a model that does not know people.
    """

    def __init__(self, model: nn.Module, processor) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        self.labels = [label for label, name in model.config.id2label.items() if name.lower() == "person"]
        if not self.labels:
            raise ConditionError(
                f"people: expected a detector with the class person, found {len(model.config.id2label)} other "
                "classes; choose one that was trained on COCO"
            )

    def forward(self, picture: Tensor, threshold: float) -> Tensor:
        """A picture [3,H,W] in 0..1 -> boxes [N,4] of people: left, top, width and height in pixels, inside it."""
        height, width = picture.shape[-2:]
        pixels = _prepared(self.processor, picture).to(next(self.model.parameters()).device)
        found = self.processor.post_process_object_detection(
            self.model(pixel_values=pixels), threshold=threshold, target_sizes=[(height, width)]
        )[0]
        people = torch.isin(found["labels"].cpu(), torch.tensor(self.labels))
        left, top, right, bottom = found["boxes"].cpu().float()[people].unbind(1)
        left, right = left.clamp(0, width), right.clamp(0, width)
        top, bottom = top.clamp(0, height), bottom.clamp(0, height)
        boxes = torch.stack([left, top, right - left, bottom - top], 1)
        return boxes[(boxes[:, 2] > 0) & (boxes[:, 3] > 0)]


class JointFinder(nn.Module):
    """A pose estimator of transformers (ViTPose) for COCO's 17 points.

    model, processor: as `load_local` gives them.  Raises ConditionError for a model of other points.
    """

    def __init__(self, model: nn.Module, processor) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        if model.config.num_labels != _COCO_POINTS:
            raise ConditionError(
                f"pose: expected a model of COCO's {_COCO_POINTS} points, found one of {model.config.num_labels}; "
                "choose a ViTPose that was trained on COCO"
            )
        self.experts = getattr(model.config.backbone_config, "num_experts", 1)  # ViTPose+ has one for each data set

    def forward(self, picture: Tensor, boxes: Tensor) -> list[Person]:
        """A picture [3,H,W] in 0..1, and boxes [N,4] as `PersonFinder` gives them -> the person in each."""
        people = []
        device = next(self.model.parameters()).device
        for some in boxes.split(_AT_ONCE) if len(boxes) else ():  # an empty tensor would be split into itself
            corners = [some.numpy()]
            pixels = _prepared(self.processor, picture, boxes=corners).to(device)
            data_set = {"dataset_index": torch.zeros(len(some), dtype=torch.long, device=device)}  # COCO is the first
            output = self.model(pixel_values=pixels, **(data_set if self.experts > 1 else {}))
            for found in self.processor.post_process_pose_estimation(output, boxes=corners)[0]:
                people.append(from_coco(found["keypoints"].float().cpu(), found["scores"].float().cpu()))
        return people


def _prepared(processor, picture: Tensor, **options) -> Tensor:
    """What a processor of transformers makes of a picture [3,H,W] in 0..1; on the CPU, where all of them work."""
    return processor(
        images=[picture.cpu()], do_rescale=False, input_data_format="channels_first", return_tensors="pt", **options
    )["pixel_values"]


def load_person_finder(folder: Path) -> PersonFinder:
    """The model in a local folder, on the CPU.  Raises ConditionError (see `load_local`)."""
    return PersonFinder(*load_local("AutoModelForObjectDetection", folder)).eval()


def load_joint_finder(folder: Path) -> JointFinder:
    """The model in a local folder, on the CPU.  Raises ConditionError (see `load_local`)."""
    return JointFinder(*load_local("VitPoseForPoseEstimation", folder)).eval()


@torch.inference_mode()
def find_people(
    images: Tensor,
    people: PersonFinder,
    joints: JointFinder,
    options: PoseOptions | None = None,
    device: torch.device | str | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> list[Frame]:
    """The people in images [B,H,W,C] in 0..1, one `Frame` for each image; it has no people where none are found.

    people, joints: on `device`, which is the images' by default.
    on_picture:     called after each picture; they go through the networks one by one, which bounds the memory.

    Raises ConditionError for images that `as_pictures` refuses.
    """
    options = options or PoseOptions()
    frames = []
    for picture in as_pictures(images):
        picture = picture.to(device or picture.device).permute(2, 0, 1)
        found = joints(picture, people(picture, options.person_threshold))
        frames.append(Frame(*picture.shape[-2:], found))
        on_picture()
    return frames


def draw_frames(
    frames: Sequence[Frame], options: PoseOptions | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """People on black: float [B,H,W,3] in 0..1, on the CPU.

    size: height and width, by default those of the first frame; people in frames of another size are stretched to it.
    Limbs are as thick on every size, as in the authors' annotator.  Raises ConditionError where there is neither.
    """
    options = options or PoseOptions()
    if size is None:
        if not frames:
            raise ConditionError("keypoints: expected at least one picture, found none; connect keypoints or an image")
        size = frames[0].height, frames[0].width
    height, width = size
    drawn = torch.empty(len(frames), height, width, 3)
    for frame, out in zip(frames, drawn, strict=True):
        scale = torch.tensor([width / frame.width, height / frame.height, 1.0])
        people = [Person(person.body * scale, person.hands * scale) for person in frame.people]
        canvas = draw_people(people, height, width, options.joint_threshold, options.hands)
        out.copy_(torch.from_numpy(canvas).float() / 255)
    return drawn


def pose(
    images: Tensor,
    people: PersonFinder,
    joints: JointFinder,
    options: PoseOptions | None = None,
    device: torch.device | str | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Tensor:
    """People in images [B,H,W,C] in 0..1 drawn on black: float [B,H,W,3] in 0..1, on the images' device.

    Parameters and errors are those of `find_people`; for the keypoints themselves, call it and then `draw_frames`.
    """
    frames = find_people(images, people, joints, options, device, on_picture)
    return draw_frames(frames, options, tuple(images.shape[1:3])).to(images.device)
