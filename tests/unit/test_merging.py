"""The sum of SC-Tuners as one tuner."""

from __future__ import annotations

import pytest
import torch

from scedit_core import CSCTuner, SCEditError, SCTuner, SkipLayout
from scedit_core.merging import merge_sc_tuners

LAYOUT = SkipLayout.from_channels([128] * 5 + [64] * 3 + [32] * 4)


def tuner(seed: int, **options) -> SCTuner:
    draw = torch.Generator().manual_seed(seed)
    made = SCTuner(LAYOUT, **options)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / p[0].numel() ** 0.5)
    return made.requires_grad_(False)


def skip(b: int) -> torch.Tensor:
    return torch.randn(2, LAYOUT.channels[b], 5, 7, generator=torch.Generator().manual_seed(b))


def test_the_residual_is_the_weighted_sum():
    a, b, c = tuner(1), tuner(2, ratio=0.5), tuner(3, blocks=[0, 7])
    merged = merge_sc_tuners([(a, 0.7), (b, -1.3), (c, 2.0)])
    for block in range(12):
        s = skip(block)
        expected = 0.7 * a.residual(block, s) - 1.3 * b.residual(block, s)
        if block in c.blocks:
            expected = expected + 2.0 * c.residual(block, s)
        torch.testing.assert_close(merged.residual(block, s), expected, rtol=1e-5, atol=1e-5)
    assert merged.hidden()[0] == 128 + 64 + 128
    assert merged.hidden()[1] == 128 + 64


def test_one_tuner_at_weight_one_is_itself():
    a = tuner(1, blocks=[2, 3], metadata={"mine": "kept"})
    merged = merge_sc_tuners([(a, 1.0)])
    assert merged.blocks == (2, 3)
    assert merged.metadata == {"mine": "kept"}
    assert torch.equal(merged.residual(2, skip(2)), a.residual(2, skip(2)))


@pytest.mark.parametrize("order", [1, -1])
def test_a_family_that_one_of_them_knows_is_kept(order):
    """Of tuners for SD 1.5 or SD 2.1, which files of others often do not tell, the whole is for what the others are."""
    known, unknown = tuner(1), tuner(2)
    known.layout, unknown.layout = (SkipLayout.from_channels(LAYOUT.channels, f) for f in ("sd2", "sd1-or-sd2"))
    assert merge_sc_tuners([(known, 1.0), (unknown, 1.0)][::order]).layout.family == "sd2"


def test_half_precision_loses_nothing():
    a, b = tuner(1).half(), tuner(2).bfloat16()
    assert merge_sc_tuners([(a, 1.0), (tuner(3).half(), 1.0)]).dtype == torch.float16
    assert merge_sc_tuners([(a, 0.3)]).dtype == torch.float32
    merged = merge_sc_tuners([(a, 1.0), (b, 1.0)])
    expected = a.float().residual(4, skip(4)) + b.float().residual(4, skip(4))
    torch.testing.assert_close(merged.residual(4, skip(4)), expected, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(SCEditError, match="expected at least one SC-Tuner, found none"):
        merge_sc_tuners([])
    with pytest.raises(SCEditError, match="found a CSC-Tuner"):
        merge_sc_tuners([(tuner(1), 1.0), (CSCTuner(LAYOUT), 1.0)])
    other = SCTuner(SkipLayout.from_channels([128] * 2 + [64] * 3 + [32] * 4))
    with pytest.raises(SCEditError, match="merge tuners of one base model"):
        merge_sc_tuners([(tuner(1), 1.0), (other, 1.0)])


def test_a_weight_that_is_no_number_is_refused():
    for weight in (float("nan"), float("inf")):
        with pytest.raises(SCEditError, match="weight: expected a number for each tuner"):
            merge_sc_tuners([(tuner(1), 1.0), (tuner(2), weight)])


def test_a_prediction_that_differs_is_not_said_of_the_sum():
    one, other = tuner(1), tuner(2)
    one.metadata["scedit.prediction"], other.metadata["scedit.prediction"] = "epsilon", "v_prediction"
    assert "scedit.prediction" not in merge_sc_tuners([(one, 1.0), (other, 1.0)]).metadata
    other.metadata["scedit.prediction"] = "epsilon"
    assert merge_sc_tuners([(one, 1.0), (other, 1.0)]).metadata["scedit.prediction"] == "epsilon"
