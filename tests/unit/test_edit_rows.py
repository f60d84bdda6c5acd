"""Edits of some rows of a batch, and tuners built again of other layers."""

from __future__ import annotations

import torch
from torch import nn

from scedit_core import CSCTuner, SCTuner, SkipLayout
from scedit_core.editing import Edit, edit_skip
from scedit_core.tuners import rebuilt

LAYOUT = SkipLayout.from_channels([32] * 5 + [16] * 3 + [8] * 4)


def randomised(tuner):
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in tuner.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / p[0].numel() ** 0.5)
    return tuner.requires_grad_(False)


def test_only_the_named_rows_change():
    tuner, skip = randomised(SCTuner(LAYOUT)), torch.randn(4, 32, 3, 5, generator=torch.Generator().manual_seed(1))
    rows = torch.tensor([1, 3])
    edited = edit_skip(0, skip, [Edit(tuner, 0.5, rows=rows)])
    whole = edit_skip(0, skip, [Edit(tuner, 0.5)])
    assert torch.equal(edited[[0, 2]], skip[[0, 2]])
    torch.testing.assert_close(edited[rows], whole[rows])
    assert not torch.allclose(edited[rows], skip[rows])


def test_masks_and_hints_belong_to_the_named_rows():
    tuner, draw = randomised(CSCTuner(LAYOUT)), torch.Generator().manual_seed(1)
    skip, hint = torch.randn(4, 8, 4, 4, generator=draw), torch.rand(2, 3, 32, 32, generator=draw)
    rows, mask = torch.tensor([0, 2]), torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
    features = tuner.encode_hint(hint)
    edited = edit_skip(11, skip, [Edit(tuner, hint_features=features, mask=mask, rows=rows)])
    assert torch.equal(edited[[0, 1, 3]], skip[[0, 1, 3]])
    expected = skip[2:3] + tuner.residual(11, skip[2:3], features[11][1:2])
    torch.testing.assert_close(edited[2:3], expected)


def test_one_hint_serves_every_row():
    tuner, draw = randomised(CSCTuner(LAYOUT)), torch.Generator().manual_seed(1)
    skip, hint = torch.randn(3, 8, 4, 4, generator=draw), torch.rand(1, 3, 32, 32, generator=draw)
    one = edit_skip(11, skip, [Edit(tuner, hint_features=tuner.encode_hint(hint))])
    three = edit_skip(11, skip, [Edit(tuner, hint_features=tuner.encode_hint(hint.repeat(3, 1, 1, 1)))])
    torch.testing.assert_close(one, three)


class _OtherLayers:
    class Conv2d(nn.Conv2d):
        """Stands for a host's casting layer."""


def test_a_rebuilt_tuner_is_the_same_function_of_other_layers():
    for tuner in (
        SCTuner(LAYOUT, ratio=0.5, blocks=[0, 3], metadata={"mine": "kept"}),
        CSCTuner(LAYOUT, kernel=3, hint_ratio=2, stem_width=64),
    ):
        copy = rebuilt(randomised(tuner), _OtherLayers, torch.float32)
        assert copy.blocks == tuner.blocks
        assert copy.metadata == tuner.metadata
        assert all(isinstance(m, _OtherLayers.Conv2d) for m in copy.modules() if isinstance(m, nn.Conv2d))
        for (name, a), (other, b) in zip(tuner.named_parameters(), copy.named_parameters(), strict=True):
            assert name == other
            assert a.data_ptr() == b.data_ptr()
        half = rebuilt(tuner, _OtherLayers, torch.float16)
        assert half.dtype == torch.float16
        assert tuner.dtype == torch.float32


def test_weights_made_in_inference_mode_are_rebuilt_outside_of_it():
    with torch.inference_mode():
        made = CSCTuner(LAYOUT)
    assert not any(p.requires_grad for p in rebuilt(made, _OtherLayers, torch.float32).parameters())


def test_another_encoder_of_the_same_weights_gives_the_same_features():
    tuner, hint = randomised(CSCTuner(LAYOUT)), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    other = rebuilt(tuner, _OtherLayers, torch.float32).hint
    assert all(torch.equal(a, b) for a, b in zip(tuner.encode_hint(hint), tuner.encode_hint(hint, other), strict=True))
