"""The folded formula is the plain one, for any number of tuners with any options."""

from __future__ import annotations

import random

import pytest
import torch

from scedit_core import HintError, SkipLayout
from scedit_core.editing import Edit, edit_skip
from scedit_core.folding import FoldedEdits, FoldedWeights, edit_folded, folded

LAYOUT = SkipLayout.from_channels([48] * 2 + [32] * 3 + [16] * 4)
HALVES = [torch.float16, torch.bfloat16]


def relative(found, expected) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def skips(batch: int, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, 16 // s, 16 // s, generator=draw)
        for c, s in zip(LAYOUT.channels, LAYOUT.strides, strict=True)
    ]


@pytest.fixture(scope="module")
def hints():
    draw = torch.Generator().manual_seed(5)
    return {count: torch.rand(count, 3, 128, 128, generator=draw) for count in (1, 2)}


@pytest.fixture
def random_edits(make_sc, make_csc, hints):
    """`random_edits(seed, batch)`: one to eight tuners, all options mixed."""

    def make(seed: int, batch: int = 4) -> list[Edit]:
        choose, edits = random.Random(seed), []
        draw = torch.Generator().manual_seed(seed)
        for i in range(choose.randint(1, 8)):
            options = {"layout": LAYOUT, "ratio": choose.choice([1.0, 0.5, 1.5])}
            if choose.random() < 0.3:
                options["blocks"] = sorted(choose.sample(range(9), 4))
            control = choose.random() < 0.6
            tuner = make_csc(10 * seed + i, kernel=choose.choice([1, 3]), **options) if control else None
            tuner = tuner or make_sc(10 * seed + i, **options)
            if control and choose.random() < 0.5:
                tuner.metadata["scedit.scale"] = "0.6"
            edit = Edit(tuner.requires_grad_(False), choose.choice([1.0, 0.5, -0.8, 0.0, 1.3]))
            edit.rows = choose.choice([None, None, torch.tensor([0, 1]), torch.tensor([2, 3])])
            if control:
                edit.hint_features = tuner.encode_hint(hints[choose.choice([1, 2])])
            if choose.random() < 0.4:
                edit.mask = torch.rand(choose.choice([1, 2]), 37, 53, generator=draw)
            if choose.random() < 0.3:
                edit.block_weights = [choose.choice([0.0, 0.5, 1.0, 2.0]) for _ in range(9)]
            edits.append(edit)
        return edits

    return make


@pytest.mark.parametrize("seed", range(24))
def test_random_sets_equal_the_plain_formula(random_edits, seed):
    edits, inputs = random_edits(seed), skips(4, seed)
    groups = folded(edits, inputs[0])
    for b, skip in enumerate(inputs):
        found = edit_folded(b, skip, groups)
        assert relative(found, edit_skip(b, skip, edits)) < 1e-6
        assert torch.equal(edit_folded(b, skip, groups), found)  # nothing is used up or written over


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_no_farther_from_the_exact_result_than_the_plain_formula(random_edits, dtype):
    """Each set of tuners over all blocks, beside float64 with the weights and features of the float32 files."""

    def as_dtype(edits, dtype):
        for edit in edits:
            edit.tuner.to(dtype)
            if edit.hint_features is not None:
                edit.hint_features = [g if g is None else g.to(dtype) for g in edit.hint_features]
        return edits

    for seed in range(12):
        inputs = [s.to(dtype) for s in skips(4, seed)]
        exact_edits = as_dtype(random_edits(seed), torch.float64)
        exact = [edit_skip(b, skip.double(), exact_edits) for b, skip in enumerate(inputs)]
        groups = folded(random_edits(seed), inputs[0])
        found = [edit_folded(b, skip, groups) for b, skip in enumerate(inputs)]
        half_edits = as_dtype(random_edits(seed), dtype)
        plain = [edit_skip(b, skip, half_edits) for b, skip in enumerate(inputs)]
        distance = [sum(float((a - b).square().sum()) for a, b in zip(r, exact, strict=True)) for r in (found, plain)]
        assert distance[0] <= distance[1]


def test_strength_0_zero_weights_and_untuned_blocks_give_the_skip_itself(make_sc, make_csc, hints):
    control = make_csc(layout=LAYOUT)
    edits = [
        Edit(make_sc(layout=LAYOUT), 0.0),
        Edit(control, 0.0, control.encode_hint(hints[1])),
        Edit(make_sc(layout=LAYOUT), 1.0, block_weights=[0.0] * 9),
        Edit(make_sc(layout=LAYOUT, blocks=[1, 2])),
        Edit(control),  # without a hint
    ]
    skip = skips(2)[3]
    assert edit_folded(3, skip, folded(edits, skip)) is skip


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_an_all_one_mask_is_no_mask_and_an_all_zero_mask_no_tuner(make_sc, make_csc, hints, dtype):
    skip, control = skips(2)[3].to(dtype), make_csc(layout=LAYOUT).to(dtype)
    for edit in (
        Edit(make_sc(layout=LAYOUT).to(dtype), 0.7),
        Edit(control, 0.7, control.encode_hint(hints[1].to(dtype))),
    ):
        bare = edit_folded(3, skip, folded([edit], skip))
        edit.mask = torch.ones(1, 37, 53)
        assert torch.equal(edit_folded(3, skip, folded([edit], skip)), bare)
        edit.mask = torch.zeros(2, 37, 53)
        assert torch.equal(edit_folded(3, skip, folded([edit], skip)), skip)


def test_rows_that_nobody_edits_stay_as_they_are(random_edits):
    edits, skip = random_edits(3), skips(4)[0]
    for edit in edits:
        edit.rows = torch.tensor([2, 3])
    edited = edit_folded(0, skip, folded(edits, skip))
    assert torch.equal(edited[:2], skip[:2])
    assert not torch.equal(edited[2:], skip[2:])


def test_one_fold_serves_batches_that_hold_its_pictures_more_than_once(make_csc, hints):
    control = make_csc(layout=LAYOUT)
    edit = Edit(control, 0.8, control.encode_hint(hints[2]))
    group = folded([edit], skips(2)[0])[0]
    for batch in (2, 4, 6):
        skip = skips(batch)[3]
        assert relative(edit_folded(3, skip, [group]), edit_skip(3, skip, [edit])) < 1e-6
    kept = group.nbytes
    edit_folded(3, skips(8)[3], [group])
    assert group.nbytes == kept == 2 * 2 * 16 // 2 * 16 // 2 * 32 * 4  # B and G of two pictures, 32 wide, 8x8


def test_skips_of_another_size(make_csc, hints, one_sentence):
    control = make_csc(layout=LAYOUT)
    edit, skip = Edit(control, 1.0, control.encode_hint(hints[1]), resize_hint=True), skips(2)[3]
    group = folded([edit], skip)[0]
    for size in ((8, 8), (5, 7), (8, 8)):
        other = torch.randn(2, 32, *size, generator=torch.Generator().manual_seed(1))
        assert relative(edit_folded(3, other, [group]), edit_skip(3, other, [edit])) < 1e-6
    edit.resize_hint = False
    with pytest.raises(HintError) as raised:
        edit_folded(3, skip[:, :, :7], folded([edit], skip))
    one_sentence(raised, "7x8", "8x8")


def test_skips_in_channels_last_order(random_edits):
    edits, skip = random_edits(7), skips(4)[0].contiguous(memory_format=torch.channels_last)
    assert relative(edit_folded(0, skip, folded(edits, skip)), edit_skip(0, skip, edits)) < 1e-6


def test_gradients_reach_the_skip(random_edits):
    """A base that is trained under tuners: the same gradient as with the plain formula."""
    edits, skip = random_edits(2), skips(4)[0]
    gradients = []
    for edited in (lambda s: edit_folded(0, s, folded(edits, s)), lambda s: edit_skip(0, s, edits)):
        leaf = skip.clone().requires_grad_()
        edited(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert relative(*gradients) < 1e-6


def test_shared_weights_and_what_they_weigh(make_sc, make_csc, hints):
    control = make_csc(layout=LAYOUT, blocks=[0, 3])
    edits = [Edit(make_sc(layout=LAYOUT, blocks=[0, 3]), 0.5), Edit(control, 1.0, control.encode_hint(hints[1]))]
    weights = FoldedWeights(edits, torch.device("cpu"), torch.float32)
    groups = [FoldedEdits(edits, weights) for _ in range(2)]
    for b in (0, 3):
        edit_folded(b, skips(2)[b], groups)
    assert groups[0].block(0, 2, (4, 4)).down is groups[1].block(0, 2, (4, 4)).down
    assert weights.nbytes == sum(weights.stack(b).nbytes for b in (0, 3))
