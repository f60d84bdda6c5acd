"""Masks for training on completion: how much is missing, and that the same draw gives the same masks."""

from __future__ import annotations

import pytest
import torch

from scedit_core.conditions.random_masks import CompletionOptions, random_completion, random_masks
from scedit_core.errors import ConditionError


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("outer", [0, 1])
@pytest.mark.parametrize("size", [(64, 64), (96, 48)], ids=str)
def test_as_much_is_missing_as_was_said(outer, size):
    options = CompletionOptions(outer=outer, smallest=0.2, largest=0.5)
    masks = random_masks(60, *size, options, drawn())
    assert set(masks.unique().tolist()) == {0, 1}
    shares = masks.mean((1, 2))
    assert shares.min() > 0.15
    assert shares.max() < 0.8  # a piece of a hole may reach further than needed
    assert 0.25 < shares.mean() < 0.55
    assert len({mask.numpy().tobytes() for mask in masks}) > 55


def test_outer_masks_keep_a_rectangle():
    for mask in random_masks(20, 40, 56, CompletionOptions(outer=1), drawn(1)):
        kept = mask == 0
        rows, columns = kept.any(1), kept.any(0)
        assert torch.equal(kept, rows[:, None] & columns)
        assert kept.any()


def test_the_same_draw_gives_the_same_masks():
    assert torch.equal(random_masks(5, 32, 32, generator=drawn(3)), random_masks(5, 32, 32, generator=drawn(3)))
    assert not torch.equal(random_masks(5, 32, 32, generator=drawn(3)), random_masks(5, 32, 32, generator=drawn(4)))


@pytest.mark.parametrize("size", [(1, 1), (7, 513)], ids=str)
@pytest.mark.parametrize("batch", [0, 3])
def test_hints_are_the_pictures_with_black_parts(size, batch):
    images = 0.5 + 0.5 * torch.rand(batch, *size, 4, generator=drawn())
    found = random_completion(images, generator=drawn(2))
    masks = random_masks(batch, *size, generator=drawn(2))
    assert torch.equal(found, images[..., :3] * (1 - masks[..., None]))


@pytest.mark.parametrize("options", [{"outer": 1.5}, {"largest": float("nan")}, {"smallest": 0.7}])
def test_shares_have_bounds(options, one_sentence):
    with pytest.raises(ConditionError) as raised:
        CompletionOptions(**options)
    one_sentence(raised, f"completion {next(iter(options))}")
