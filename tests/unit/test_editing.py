"""The combined formula: strengths, masks, batches and order."""

from __future__ import annotations

import pytest
import torch

from scedit_core import HintError
from scedit_core.editing import Edit, edit_skip, fitted_mask, is_active

SKIP = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
BLOCK = 3


def test_strength_0_returns_the_skip_itself(make_sc, make_csc, hint):
    csc = make_csc()
    edits = [Edit(make_sc(), 0.0), Edit(csc, 0.0, csc.encode_hint(hint)), Edit(make_sc(), 1.0, block_weights=[0] * 9)]
    assert edit_skip(BLOCK, SKIP, edits) is SKIP


def test_untuned_blocks_return_the_skip_itself(make_sc):
    assert edit_skip(BLOCK, SKIP, [Edit(make_sc(blocks=[1, 2]))]) is SKIP


def test_all_tuners_read_the_unedited_skip(make_sc, make_csc, hint):
    one, two, csc = make_sc(1), make_sc(2), make_csc()
    csc.metadata["scedit.scale"] = "0.5"
    features = csc.encode_hint(hint)
    edits = [Edit(one, 0.7), Edit(csc, 0.8, features), Edit(two, -1.3)]
    expected = SKIP + 0.7 * one.residual(BLOCK, SKIP) - 1.3 * two.residual(BLOCK, SKIP)
    g = features[BLOCK]
    expected = expected + 0.8 * 0.5 * csc.residual(BLOCK, SKIP, g.expand_as(SKIP))
    for order in (edits, edits[::-1], [edits[1], edits[0], edits[2]]):
        torch.testing.assert_close(edit_skip(BLOCK, SKIP, order), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 8), (37, 53), (111, 97), (3, 3)], ids=str)
def test_an_all_one_mask_is_no_mask_and_an_all_zero_mask_no_tuner(make_sc, dtype, size):
    tuner, skip = make_sc().to(dtype), SKIP.to(dtype)
    bare = edit_skip(BLOCK, skip, [Edit(tuner)])
    assert torch.equal(edit_skip(BLOCK, skip, [Edit(tuner, mask=torch.ones(1, *size))]), bare)
    assert torch.equal(edit_skip(BLOCK, skip, [Edit(tuner, mask=torch.zeros(2, *size))]), skip)


def test_a_half_mask_edits_its_half(make_sc):
    tuner, mask = make_sc(), torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    edited, bare = edit_skip(BLOCK, SKIP, [Edit(tuner, mask=mask)]), edit_skip(BLOCK, SKIP, [Edit(tuner)])
    assert torch.equal(edited[..., :4], SKIP[..., :4])
    assert torch.equal(edited[..., 4:], bare[..., 4:])


def test_masks_repeat_over_a_doubled_batch_and_refuse_others(make_sc, one_sentence):
    mask = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
    assert fitted_mask(mask, 4, (3, 5)).shape == (2, 1, 3, 5)
    tuner, skip = make_sc(), torch.cat([SKIP, SKIP])
    edited = edit_skip(BLOCK, skip, [Edit(tuner, mask=mask)])
    assert torch.equal(edited[::2], skip[::2])
    torch.testing.assert_close(edited[1::2], edit_skip(BLOCK, skip, [Edit(tuner)])[1::2])
    with pytest.raises(HintError) as raised:
        fitted_mask(mask, 3, (8, 8))
    one_sentence(raised, "divides 3")


@pytest.mark.parametrize("shape", [(8, 8), (1, 1, 8, 8), (0, 8, 8)], ids=str)
def test_masks_of_wrong_shape_are_refused(make_sc, one_sentence, shape):
    with pytest.raises(HintError) as raised:
        edit_skip(BLOCK, SKIP, [Edit(make_sc(), mask=torch.ones(shape))])
    one_sentence(raised, str(list(shape)))


def test_a_hint_repeats_over_the_batch_and_refuses_another_size(make_csc, hint, one_sentence):
    tuner = make_csc()
    features = tuner.encode_hint(hint)
    doubled = edit_skip(BLOCK, SKIP, [Edit(tuner, 1.0, features)])
    single = edit_skip(BLOCK, SKIP[1:], [Edit(tuner, 1.0, features)])
    torch.testing.assert_close(doubled[1:], single, rtol=1e-5, atol=1e-5)
    with pytest.raises(HintError) as raised:
        edit_skip(BLOCK, SKIP[:, :, :7], [Edit(tuner, 1.0, features)])
    one_sentence(raised, "7x8", "8x8")
    assert edit_skip(BLOCK, SKIP[:, :, :7], [Edit(tuner, 1.0, features, resize_hint=True)]).shape == (2, 64, 7, 8)
    three = tuner.encode_hint(hint.repeat(3, 1, 1, 1))
    with pytest.raises(HintError) as raised:
        edit_skip(BLOCK, SKIP, [Edit(tuner, 1.0, three)])
    one_sentence(raised, "divides 2")


def test_schedules_that_meet_cover_each_step_once():
    sigmas = [14.6, 7.0, 3.1, 3.0, 1.2, 0.03]
    first, second = (float("inf"), 3.1), (3.1, -1.0)
    assert [is_active(s, *first) + is_active(s, *second) for s in sigmas] == [1] * len(sigmas)
