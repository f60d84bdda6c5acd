"""Files that do not tell their U-Net, and folders in which SWIFT wrote more than the one they are named for."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from scedit_core import SCTuner, SkipLayout, TunerFileError, load_tuner
from scedit_core.errors import UnknownLayoutError

ODD = SkipLayout((96, 96, 96, 48, 48, 48), (2, 2, 2, 1, 1, 1))  # of no known family


def write_one_block(path, block: int = 4) -> SCTuner:
    tuner = SCTuner(ODD, blocks=[block])
    names = {"down": "ln1", "up": "ln2"}
    keys = {}
    for layer, name in names.items():
        module = getattr(tuner.tuners[str(block)], layer)
        for part, tensor in module.named_parameters():
            keys[f"lsc_identity.{block}.tuner_op.{name}.{part}"] = tensor.detach().clone()
    save_file(keys, path)
    return tuner


def test_a_file_that_does_not_tell_its_unet_loads_for_the_one_that_is_named(tmp_path):
    wanted = write_one_block(tmp_path / "one.safetensors")
    with pytest.raises(UnknownLayoutError, match="skip channels: expected blocks"):
        load_tuner(tmp_path / "one.safetensors")
    tuner = load_tuner(tmp_path / "one.safetensors", layout=ODD)
    assert (tuner.layout, tuner.blocks) == (ODD, (4,))
    assert torch.equal(tuner.tuners["4"].down.weight, wanted.tuners["4"].down.weight)


def test_a_unet_that_does_not_fit_is_refused(tmp_path):
    write_one_block(tmp_path / "one.safetensors")
    other = SkipLayout((64, 64, 64, 32, 32, 32), (2, 2, 2, 1, 1, 1))
    with pytest.raises(TunerFileError, match="found block 4 of 48 channels; choose a tuner"):
        load_tuner(tmp_path / "one.safetensors", layout=other)


def test_a_layout_that_the_file_tells_wins(tmp_path, make_sc):
    from scedit_core import save_tuner

    path = save_tuner(make_sc(), tmp_path / "whole.safetensors")
    assert load_tuner(path, layout=ODD).layout == make_sc().layout


def test_of_several_adapters_the_one_of_the_folders_name_is_loaded(tmp_path, make_sc):
    """SWIFT saves into `style` every adapter whose name begins with it, `style2` too."""
    from scedit_core import save_tuner
    from scedit_core.converting import convert_tuner

    both = {}
    for seed, name in ((1, "style"), (2, "style2")):
        own = save_tuner(make_sc(seed), tmp_path / f"{name}.own.safetensors")
        convert_tuner(own, tmp_path / name / "x.safetensors", "swift")
        keys = load_file(next((tmp_path / name).rglob("*.safetensors")))
        both |= {key.replace("scetuner_0_SwiftSCETuning", f"scetuner_{name}"): value for key, value in keys.items()}
    target = tmp_path / "saved" / "style"
    target.mkdir(parents=True)
    save_file(both, target / "adapter_model.safetensors")
    first = load_tuner(target)
    assert torch.equal(first.tuners["0"].up.weight, make_sc(1).tuners["0"].up.weight)
    second = load_tuner(target, name="style2")
    assert torch.equal(second.tuners["0"].up.weight, make_sc(2).tuners["0"].up.weight)
