"""Same weights, same inputs, the authors' whole U-Net: once with their tuners, once with ours put in their place."""

from __future__ import annotations

import pytest
import torch

from scedit_core import CSCTuner, SCTuner, load_tuner
from scedit_core.editing import Edit

TOLERANCE = 1e-5  # relative to the output's norm, float32
EFFECT = 0.1  # a tuner that changes the output by less would prove nothing


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def loaded(tmp_path):
    """Their module saved as they save it, then read by ours."""

    def load(module, prefix: str):
        path = tmp_path / f"{prefix.replace('.', '_')}{len(list(tmp_path.iterdir()))}.bin"
        torch.save({prefix + k: v for k, v in module.state_dict().items()}, path)
        return load_tuner(path)

    return load


def check(authors, theirs: torch.Tensor, ours: torch.Tensor) -> None:
    assert relative(theirs, authors.theirs()) >= EFFECT
    assert relative(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(
    ("ratio", "blocks"),
    [(1.0, None), (0.5, None), (1.0, [0, 1, 2, 5, 8, 11]), (0.5, [3, 4, 9])],
    ids=["ratio-1", "ratio-0.5", "untouched-layers", "ratio-0.5-untouched-layers"],
)
def test_sc_tuner_gives_the_authors_output(authors, loaded, ratio, blocks):
    sc = authors.sc_tuner(ratio, blocks)
    tuner = loaded(sc, "model.lsc_identity.")
    assert isinstance(tuner, SCTuner)
    assert tuner.blocks == tuple(blocks or range(12))
    check(authors, authors.theirs(sc), authors.ours([Edit(tuner)]))


def test_sc_tuner_at_strength_0_4_gives_the_authors_output(authors, loaded):
    sc = authors.sc_tuner()
    theirs = authors.theirs(sc, tuner_scale=0.4)
    check(authors, theirs, authors.ours([Edit(loaded(sc, "lsc_identity."), 0.4)]))
    assert relative(theirs, authors.theirs(sc)) > 0.01  # the strength was heard


@pytest.mark.parametrize("kernel", [3, 1])
def test_csc_tuner_gives_the_authors_output(authors, loaded, kernel):
    csc, hint = authors.csc_tuner(kernel), authors.hint()
    tuner = loaded(csc, "0.")
    assert isinstance(tuner, CSCTuner)
    ours = authors.ours([Edit(tuner, 1.0, tuner.encode_hint(hint))])
    check(authors, authors.theirs(controls=[csc], hints=[hint]), ours)


def test_two_csc_tuners_with_different_scales_give_the_authors_output(authors, loaded):
    controls = [authors.csc_tuner(3, scale=0.8, seed=2), authors.csc_tuner(1, scale=0.35, ratio=0.5, seed=3)]
    hints = [authors.hint(5), authors.hint(6)]
    tuners = [loaded(csc, "model.") for csc in controls]
    for tuner, csc in zip(tuners, controls, strict=True):
        tuner.metadata["scedit.scale"] = str(csc.scale)
    edits = [Edit(t, 0.9, t.encode_hint(h)) for t, h in zip(tuners, hints, strict=True)]
    theirs = authors.theirs(controls=controls, hints=hints, control_scale=0.9)
    check(authors, theirs, authors.ours(edits))
    assert relative(authors.ours(edits[::-1]), theirs) < TOLERANCE  # in either order


def test_csc_with_sc_gives_the_authors_output(authors, loaded):
    sc, csc, hint = authors.sc_tuner(), authors.csc_tuner(), authors.hint()
    style, control = loaded(sc, "lsc_identity."), loaded(csc, "")
    edits = [Edit(style, 0.7), Edit(control, 0.6, control.encode_hint(hint))]
    theirs = authors.theirs(sc, [csc], [hint], control_scale=0.6, tuner_scale=0.7)
    check(authors, theirs, authors.ours(edits))
    assert relative(authors.ours(edits[::-1]), theirs) < TOLERANCE
    assert relative(theirs, authors.theirs(controls=[csc], hints=[hint], control_scale=0.6)) > 0.01


def test_sdxl_shaped_tuners_give_the_authors_output(authors_xl, loaded):
    sc, csc, hint = authors_xl.sc_tuner(), authors_xl.csc_tuner(), authors_xl.hint()
    style, control = loaded(sc, "lsc_identity."), loaded(csc, "")
    assert len(style.layout) == len(control.layout) == 9
    edits = [Edit(style, 1.0), Edit(control, 1.0, control.encode_hint(hint))]
    theirs = authors_xl.theirs(sc, [csc], [hint], control_scale=1.0, tuner_scale=1.0)
    check(authors_xl, theirs, authors_xl.ours(edits))
