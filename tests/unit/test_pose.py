"""Pose with a small random RT-DETR and ViTPose, saved and loaded as real ones are, and the drawing of people."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scedit_core.conditions.keypoints import Frame, Person
from scedit_core.conditions.openpose import draw_people
from scedit_core.conditions.pose import (
    PoseOptions,
    draw_frames,
    find_people,
    load_joint_finder,
    load_person_finder,
    pose,
)
from scedit_core.errors import ConditionError

ALL = PoseOptions(person_threshold=0, joint_threshold=0)
NO_HANDS = torch.zeros(2, 21, 3)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def people(tmp_path_factory, save_detector):
    return load_person_finder(save_detector("rtdetr", tmp_path_factory.mktemp("rtdetr")))


@pytest.fixture(scope="module")
def joints(tmp_path_factory, save_detector):
    return load_joint_finder(save_detector("vitpose", tmp_path_factory.mktemp("vitpose")))


def person(*points: tuple[int, float, float], score: float = 1.0) -> Person:
    """Someone of whom only these points are seen: place in OpenPose's order, x and y."""
    body = torch.zeros(18, 3)
    for place, x, y in points:
        body[place] = torch.tensor([x, y, score])
    return Person(body, NO_HANDS)


@pytest.mark.parametrize("size", [(1, 1), (7, 513), (131, 75)], ids=str)
def test_any_size_and_batch(people, joints, size):
    images, seen = noise(2, *size, 4), []
    found = pose(images, people, joints, ALL, on_picture=lambda: seen.append(1))
    assert found.shape == (2, *size, 3)
    assert len(seen) == 2
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 1
    one_by_one = [pose(image[None, ..., :3], people, joints, ALL) for image in images]
    assert torch.equal(found, torch.cat(one_by_one))
    assert pose(images[:0], people, joints, ALL).shape == (0, *size, 3)


def test_people_are_found_inside_the_picture(people, joints):
    images = noise(1, 120, 90, 3)
    boxes = people(images[0].permute(2, 0, 1), 0)
    assert 1 <= len(boxes) <= 10
    left, top, width, height = boxes.unbind(1)
    assert (boxes[:, 2:] > 0).all()
    assert ((left >= 0) & (left + width <= 90 + 1e-3) & (top >= 0) & (top + height <= 120 + 1e-3)).all()
    frames = find_people(images, people, joints, ALL)
    assert [(frame.height, frame.width, len(frame.people)) for frame in frames] == [(120, 90, len(boxes))]
    assert pose(images, people, joints, ALL).any()


def test_no_people_is_a_black_picture(people, joints):
    images = noise(2, 64, 48, 3)
    options = PoseOptions(person_threshold=1)
    assert [frame.people for frame in find_people(images, people, joints, options)] == [[], []]
    assert torch.equal(pose(images, people, joints, options), torch.zeros(2, 64, 48, 3))


def test_it_is_what_transformers_gives(people, joints):
    """Boxes and points of its own processors on the picture as bytes, which is what its examples do."""
    picture = (noise(90, 70, 3) * 255).round().to(torch.uint8)
    inputs = people.processor(images=[picture.permute(2, 0, 1)], return_tensors="pt")
    with torch.no_grad():
        output = people.model(**inputs)
    found = people.processor.post_process_object_detection(output, target_sizes=[(90, 70)], threshold=0)[0]
    assert set(found["labels"].tolist()) == {0, 1}  # people, and dogs to leave out
    expected = found["boxes"][found["labels"] == 0]
    boxes = people(picture.permute(2, 0, 1) / 255, 0)
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    expected = expected.clamp(torch.zeros(4), torch.tensor([70, 90, 70, 90]))
    # Random weights make nearly equal scores, and any order.
    assert (torch.cdist(corners, expected).min(1).values < 0.5).all()
    assert len(corners) == len(expected)

    inputs = joints.processor(images=[picture.permute(2, 0, 1)], boxes=[boxes.numpy()], return_tensors="pt")
    with torch.no_grad():
        output = joints.model(**inputs)
    expected = joints.processor.post_process_pose_estimation(output, boxes=[boxes.numpy()])[0]
    with torch.no_grad():
        found = joints(picture.permute(2, 0, 1) / 255, boxes)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours.body[0, 2], theirs["scores"][0], atol=5e-3)
        assert torch.allclose(ours.body[4, :2], theirs["keypoints"][10], atol=1)


def test_many_people_go_through_in_parts(joints):
    picture = noise(3, 80, 60)
    boxes = torch.tensor([[2.0 * i, 3.0 * i, 30, 40] for i in range(9)])
    together = joints(picture, boxes)
    assert len(together) == 9
    alone = [joints(picture, box[None])[0] for box in boxes]
    assert torch.allclose(together[8].body, alone[8].body, atol=1e-3)
    assert joints(picture, boxes[:0]) == []


def test_a_model_with_experts_for_several_data_sets(tmp_path, save_detector):
    found = load_joint_finder(save_detector("vitpose", tmp_path, experts=3))
    assert len(found(noise(3, 64, 48), torch.tensor([[0.0, 0, 48, 64]]))) == 1


def test_other_classes_points_and_models_are_refused(tmp_path, save_detector, one_sentence):
    with pytest.raises(ConditionError) as raised:
        load_person_finder(save_detector("rtdetr", tmp_path / "animals", names=("cat", "dog")))
    one_sentence(raised, "person", "2 other")
    with pytest.raises(ConditionError) as raised:
        load_joint_finder(save_detector("vitpose", tmp_path / "hands", points=21))
    one_sentence(raised, "17 points", "21")
    with pytest.raises(ConditionError) as raised:
        load_joint_finder(save_detector("segformer", tmp_path / "segformer"))
    one_sentence(raised, "segformer")


def test_nothing_but_numbers(people, joints, one_sentence):
    with pytest.raises(ConditionError) as raised:
        pose(torch.full((1, 8, 8, 3), float("nan")), people, joints)
    one_sentence(raised, "NaN")


@pytest.mark.parametrize("options", [{"person_threshold": -0.1}, {"joint_threshold": 1.5}])
def test_thresholds_have_bounds(options, one_sentence):
    with pytest.raises(ConditionError) as raised:
        PoseOptions(**options)
    one_sentence(raised, next(iter(options)))


def test_limbs_lie_over_joints_and_join_only_what_is_seen():
    """The right arm: shoulder, elbow, wrist.  Colours of joints are those of their place, limbs mix 0.6 over 0.4."""
    drawn = draw_people([person((2, 20, 50), (3, 60, 50), (4, 100, 50))], 100, 120, 0)
    assert drawn[50, 40].tolist() == [153, 102, 0]  # the third limb, 0.6 of (255, 170, 0), on black
    assert drawn[50, 80].tolist() == [153, 153, 0]  # the fourth
    assert drawn[47, 100].tolist() == [170, 255, 0]  # the wrist, beside the end of its limb
    missing = draw_people([person((2, 20, 50), (4, 100, 50))], 100, 120, 0)
    assert not missing[50, 30:90].any()
    assert missing[50, 20].tolist() == [255, 170, 0]
    assert not draw_people([person((2, 20, 50), (3, 60, 50), score=0.25)], 100, 120, 0.25).any()
    assert not draw_people([], 100, 120, 0).any()


def test_several_people_do_not_hide_each_other():
    first, second = person((2, 20, 50), (3, 60, 50)), person((2, 40, 30), (3, 40, 70))
    both = draw_people([first, second], 100, 120, 0)
    for someone in (first, second):
        alone = draw_people([someone], 100, 120, 0).any(-1)
        assert both.any(-1)[alone].all()
    assert np.array_equal(draw_people([first, first], 100, 120, 0) > 0, draw_people([first], 100, 120, 0) > 0)


@pytest.mark.parametrize(
    ("point", "cut"), [((-30, 50), (50, 0)), ((150, 50), (50, 119)), ((60, -40), (0, 60)), ((60, 140), (99, 60))]
)
def test_people_cut_by_the_border(point, cut):
    """A limb that leaves the picture is drawn as far as it is inside."""
    drawn = draw_people([person((2, 60, 50), (3, *point))], 100, 120, 0)
    assert drawn[cut].any()
    assert drawn[50, 60].any()


@pytest.mark.parametrize("point", [(1e9, 50.0), (-1e9, -1e9), (float("inf"), 3.0), (float("nan"), 3.0)])
def test_points_far_outside_are_missing(point):
    drawn = draw_people([person((2, 60, 50), (3, *point))], 100, 120, 0)
    assert np.array_equal(drawn, draw_people([person((2, 60, 50))], 100, 120, 0))


def test_hands_are_drawn_where_there_are_some():
    hands = NO_HANDS.clone()
    hands[0, :, 2] = 1
    hands[0, :, 0] = torch.linspace(10, 110, 21)
    hands[0, :, 1] = 40 + 20 * (torch.arange(21) % 2)
    with_hand = Person(torch.zeros(18, 3), hands)
    drawn = draw_people([with_hand], 100, 120, 0)
    assert drawn[40, 10].tolist() == [0, 0, 255]
    assert not draw_people([with_hand], 100, 120, 0, hands=False).any()


def test_frames_are_stretched_to_a_size():
    frame = Frame(50, 60, [person((2, 20, 25), (3, 40, 25))])
    assert draw_frames([frame]).shape == (1, 50, 60, 3)
    larger = draw_frames([frame, frame], size=(100, 120))
    assert larger.shape == (2, 100, 120, 3)
    expected = draw_people([person((2, 40, 50), (3, 80, 50))], 100, 120, 0.3)
    assert np.array_equal((larger[0] * 255).round().numpy(), expected)
    assert draw_frames([], size=(8, 8)).shape == (0, 8, 8, 3)


def test_neither_frames_nor_size(one_sentence):
    with pytest.raises(ConditionError) as raised:
        draw_frames([])
    one_sentence(raised, "keypoints")
