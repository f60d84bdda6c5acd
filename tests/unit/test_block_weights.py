"""Factors for blocks: lists, presets, and their lengths."""

from __future__ import annotations

import pytest

from scedit_core import SCEditError
from scedit_core.block_weights import PRESETS, BlockWeights


@pytest.mark.parametrize("count", [9, 12])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_fit_any_number_of_blocks(preset, count):
    weights = BlockWeights(preset).for_blocks(count)
    assert len(weights) == count
    assert min(weights) >= 0
    assert max(weights) == 1


def test_halves_complete_each_other():
    for count in (1, 2, 9, 12):
        pairs = zip(
            BlockWeights("shallow only").for_blocks(count), BlockWeights("deep only").for_blocks(count), strict=True
        )
        assert all(shallow + deep == 1 for shallow, deep in pairs)
    assert BlockWeights("deep only").for_blocks(12)[0] == 1  # block 0 is the deepest
    assert BlockWeights("ramp to shallow").for_blocks(3) == (0, 0.5, 1)


def test_a_list_is_read_and_checked():
    assert BlockWeights.parse(" 1, 0.5 ,-2, ").for_blocks(3) == (1, 0.5, -2)
    with pytest.raises(SCEditError, match="expected 12 numbers for this U-Net, found 3"):
        BlockWeights.parse("1,2,3").for_blocks(12)
    for text in ("", ",", "1,,2", "one", "nan", "1, inf"):
        with pytest.raises(SCEditError, match="expected numbers between commas"):
            BlockWeights.parse(text)
    with pytest.raises(SCEditError, match="expected one of flat"):
        BlockWeights("steep").for_blocks(12)
