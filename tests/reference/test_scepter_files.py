"""Files: what scepter's modules save loads in ours, and scepter loads what is converted for it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from scedit_core import CSCTuner, SCTuner, load_tuner, save_tuner
from scedit_core.converting import convert_tuner, digest
from scedit_core.editing import Edit

TOLERANCE, EFFECT = 1e-5, 0.1


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def write(tensors: dict[str, torch.Tensor], path) -> None:
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


@pytest.fixture(params=["sd", "sdxl"])
def unet(request):
    """Their U-Net in both shapes."""
    return request.getfixturevalue({"sd": "authors", "sdxl": "authors_xl"}[request.param])


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("prefix", ["lsc_identity.", "model.lsc_identity."])
@pytest.mark.parametrize(("ratio", "blocks"), [(1.0, None), (0.5, None), (0.5, [0, 2, 4, 8])])
def test_their_sc_tuner_files_load(unet, tmp_path, suffix, prefix, ratio, blocks):
    theirs = unet.sc_tuner(ratio, blocks)
    path = tmp_path / f"pytorch_model{suffix}"
    write({prefix + k: v for k, v in theirs.state_dict().items()}, path)
    tuner = load_tuner(path)
    assert tuner.layout.channels == unet.layout.channels
    for b, channels in enumerate(unet.layout.channels):
        skip = torch.randn(1, channels, 5, 4)
        with torch.no_grad():
            expected = theirs[b](skip)
        found = skip + tuner.residual(b, skip) if b in tuner.blocks else skip
        assert relative(found, expected) < TOLERANCE
        assert (b in tuner.blocks) == (relative(expected, skip) > EFFECT)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "0.", "model."])
@pytest.mark.parametrize(("kernel", "ratio"), [(1, 1.0), (3, 1.0), (3, 0.5)])
def test_their_csc_tuner_files_load(unet, tmp_path, suffix, prefix, kernel, ratio):
    theirs = unet.csc_tuner(kernel, ratio=ratio)
    folder = tmp_path / "canny_control" / "0_SwiftSCETuning"
    folder.mkdir(parents=True)
    write({prefix + k: v for k, v in theirs.state_dict().items()}, folder / f"pytorch_model{suffix}")
    (folder / "configuration.json").write_text(json.dumps({"CONTROL_MODEL": {"SCALE": 0.5, "DOWN_RATIO": 0.1}}))
    tuner, hint = load_tuner(folder.parent), unet.hint()
    assert tuner.scale == 0.5
    with torch.no_grad():
        g = theirs.pre_hint_blocks(hint)
        expected = [g := block(g) for block in theirs.dense_hint_blocks][::-1]
        for b, found in enumerate(tuner.encode_hint(hint)):
            assert relative(found, expected[b]) < TOLERANCE
            skip = torch.randn_like(found)
            residual = theirs.lsc_tuner_blocks[b](skip + expected[b], x_shortcut=expected[b])
            assert relative(tuner.residual(b, skip, found), residual) < TOLERANCE


def test_scepter_loads_an_sc_tuner_that_is_converted_for_it(unet, fill, tmp_path):
    tuner = fill(SCTuner(unet.layout, ratio=0.5), 5)
    written = convert_tuner(save_tuner(tuner, tmp_path / "ours.safetensors"), tmp_path / "theirs", "scepter").path
    theirs = unet.sc_tuner(0.5)
    state = torch.load(written, weights_only=True)
    theirs.load_state_dict({k.removeprefix("model.lsc_identity."): v for k, v in state.items()}, strict=True)
    ours = unet.ours([Edit(tuner)])
    assert relative(ours, unet.theirs()) >= EFFECT
    assert relative(unet.theirs(theirs), ours) < TOLERANCE


@pytest.mark.parametrize("kernel", [1, 3])
def test_scepter_builds_and_loads_a_csc_tuner_that_is_converted_for_it(authors, fill, tmp_path, kernel, capsys):
    """As SCEPTER's control inference does: the module from configuration.json, the weights from pytorch_model.bin."""
    from scepter.modules.model.registry import TUNERS
    from scepter.modules.utils.config import Config

    tuner = fill(CSCTuner(authors.layout, kernel=kernel, ratio=0.5, metadata={"scedit.scale": "0.8"}), 5)
    written = convert_tuner(save_tuner(tuner, tmp_path / "ours.safetensors"), tmp_path / "theirs", "scepter").path
    config = Config(cfg_file=str(written.parent / "configuration.json")).CONTROL_MODEL
    config["INPUT_BLOCK_CHANS"] = authors.unet._input_block_chans
    config["INPUT_DOWN_FLAG"] = authors.unet._input_down_flag
    theirs = TUNERS.build(config, logger=None).eval()
    theirs.init_from_ckpt(str(written))
    assert "0 missing and 0 unexpected" in capsys.readouterr().out
    hint = authors.hint()
    ours = authors.ours([Edit(tuner, 1.0, tuner.encode_hint(hint))])
    assert relative(ours, authors.theirs()) >= EFFECT
    assert relative(authors.theirs(controls=[theirs], hints=[hint]), ours) < TOLERANCE


def test_a_state_dict_that_scepter_trained_round_trips(authors, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(torch.nn.ModuleList([authors.csc_tuner(3)]).state_dict(), path)
    done = convert_tuner(path, tmp_path / "ours.safetensors", "scedit")
    back = convert_tuner(done.path, tmp_path / "back.bin", "scepter").path
    first, last = torch.load(path, weights_only=True), torch.load(back, weights_only=True)
    assert done.before == done.after
    assert digest(first) == digest(last)
