"""The modules: how large they are, what they compute, and what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scedit_core import CSCTuner, HintError, SCEditError, SCTuner, SkipLayout

SD = SkipLayout.from_channels((1280,) * 5 + (640,) * 3 + (320,) * 4)
SDXL = SkipLayout.from_channels((1280,) * 2 + (640,) * 3 + (320,) * 4)
SD_CONTROLNET = 361.3e6  # parameters of the SD 1.5 ControlNet (its adapters and encoder copy)


def millions(tuner) -> float:
    return round(sum(p.numel() for p in tuner.parameters()) / 1e6, 2)


def test_parameter_counts_are_the_papers():
    assert millions(SCTuner(SD, device="meta")) == 19.68
    assert millions(SCTuner(SDXL, device="meta")) == 9.84
    assert millions(CSCTuner(SD, kernel=1, device="meta")) == pytest.approx(28.8, abs=0.05)
    assert millions(CSCTuner(SD, kernel=3, device="meta")) == pytest.approx(99.1, abs=0.05)
    share = millions(CSCTuner(SD, kernel=1, device="meta")) * 1e6 / SD_CONTROLNET
    assert share == pytest.approx(0.079, abs=0.001)


def test_ratio_and_blocks_choose_hidden_widths():
    tuner = SCTuner(SD, ratio=0.3, blocks=[11, 0], device="meta")
    assert tuner.blocks == (0, 11)
    assert tuner.hidden() == {0: 384, 11: 96}


def test_sc_residual_is_the_papers_formula(make_sc):
    tuner, skip = make_sc(blocks=[0, 8]), torch.randn(2, 64, 4, 4)
    state = tuner.to_file()
    z = F.linear(skip.movedim(1, -1), state["tuners.0.down.weight"], state["tuners.0.down.bias"])
    z = 0.5 * z * (1 + torch.erf(z / 2**0.5))
    expected = F.linear(z, state["tuners.0.up.weight"], state["tuners.0.up.bias"]).movedim(-1, 1)
    torch.testing.assert_close(tuner.residual(0, skip), expected, rtol=1e-5, atol=1e-5)
    assert tuner.residual(4, torch.randn(2, 64, 8, 8)) is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_sampling_and_training_give_the_same_residual(make_sc, dtype, tolerance, order):
    tuner = make_sc().to(dtype)
    skip = torch.randn(3, tuner.layout.channels[0], 5, 7).to(dtype, memory_format=order)
    trained = tuner.residual(0, skip)
    assert trained.requires_grad
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            sampled = tuner.residual(0, skip)
        assert sampled.dtype == dtype
        assert sampled.is_contiguous(memory_format=order)
        torch.testing.assert_close(sampled, trained.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", [1, 3])
def test_csc_residual_is_the_papers_formula(make_csc, hint, tiny_layout, kernel):
    tuner = make_csc(kernel=kernel)
    features = tuner.encode_hint(hint)
    sizes = [(g.shape[1], 16 // g.shape[-1]) for g in features]
    assert sizes == list(zip(tiny_layout.channels, tiny_layout.strides, strict=True))
    g, skip = features[3], torch.randn_like(features[3])
    torch.testing.assert_close(tuner.residual(3, skip, g), g + tuner.tuners["3"](skip + g))


def test_untuned_blocks_of_a_csc_tuner_have_no_feature(make_csc, hint):
    features = make_csc(blocks=[4, 7]).encode_hint(hint)
    assert [b for b, g in enumerate(features) if g is not None] == [4, 7]


def test_hint_encoder_has_the_papers_stem():
    stem = CSCTuner(SDXL, hint_ratio=2, stem_width=320, device="meta").hint.stem
    assert [conv.out_channels for conv in stem] == [32, 32, 64, 64, 192, 192, 320]
    assert [conv.stride[0] for conv in stem] == [1, 1, 2, 1, 2, 1, 2]
    assert {conv.kernel_size for conv in stem} == {(3, 3)}


@pytest.mark.parametrize(
    "hint",
    [
        torch.rand(1, 4, 64, 64),
        torch.rand(1, 1, 64, 64),
        torch.rand(3, 64, 64),
        torch.rand(1, 3, 63, 64),
        torch.rand(1, 3, 64, 60),
        torch.rand(1, 3, 0, 64),
        torch.rand(0, 3, 64, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ],
    ids=lambda hint: f"{hint.dtype}-{list(hint.shape)}",
)
def test_hints_of_wrong_shape_are_refused(make_csc, one_sentence, hint):
    with pytest.raises(HintError) as raised:
        make_csc().encode_hint(hint)
    one_sentence(raised, str(list(hint.shape)))


@pytest.mark.parametrize("options", [{"blocks": [9]}, {"blocks": []}, {"blocks": [-1]}, {"ratio": 0}, {"ratio": -1}])
def test_impossible_tuners_are_refused(tiny_layout, one_sentence, options):
    for kind in (SCTuner, CSCTuner):
        with pytest.raises(SCEditError) as raised:
            kind(tiny_layout, **options)
        one_sentence(raised)
    with pytest.raises(SCEditError) as raised:
        CSCTuner(tiny_layout, kernel=5)
    one_sentence(raised, "5")
