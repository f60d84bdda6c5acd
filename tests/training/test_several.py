"""Several controls from several ControlNets in one run: each learns what it would alone, from one encoder pass."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image, ImageOps
from rich.console import Console
from training_runs import steps_kept

from scedit_core import load_tuner
from scedit_core.errors import ConfigError
from scedit_core.fitting import several as loop
from scedit_core.fitting.run_folder import RunFolder
from training.__main__ import main
from training.bases.loading import load_base
from training.config_file import parse_config
from training.loop import train
from training.several import train_several


@pytest.fixture(scope="module")
def controlnets(base_folder, tmp_path_factory) -> list[Path]:
    """Two ControlNets of the tiny base whose residuals are not small."""
    folders = []
    for seed in (7, 8):
        network = ControlNetModel.from_unet(load_base(base_folder).unet)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in network.named_parameters():
                if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
                    p.copy_(torch.randn(p.shape, generator=draw) * 0.1)
        folders.append(tmp_path_factory.mktemp("controlnet") / f"teacher{seed}")
        network.save_pretrained(folders[-1])
    return folders


@pytest.fixture
def both(control_values, controlnets, pictures_folder, tmp_path) -> list[dict]:
    """Two configurations of two updates of each phase: edges, and hints of one's own."""
    control_values |= {"previews": {"every": 0}, "validation": {"every": 0}, "tensorboard": False}
    control_values["teacher"] = {"controlnet": str(controlnets[0]), "residuals": 2, "predictions": 2}
    control_values["loop"] |= {"steps": 6, "learning_rate": 1e-3, "accumulate": 2}
    other = copy.deepcopy(control_values)
    other["teacher"]["controlnet"] = str(controlnets[1])
    other["output"] = str(tmp_path / "out" / "negative.safetensors")
    for path in pictures_folder.glob("*.png"):
        (tmp_path / "hints").mkdir(exist_ok=True)
        ImageOps.invert(Image.open(path).convert("RGB")).save(tmp_path / "hints" / path.name)
    other["data"] |= {"condition": {"type": "custom", "name": "negative"}, "hints": str(tmp_path / "hints")}
    return [control_values, other]


def together(values: list[dict], **options) -> list[Path] | None:
    return train_several([parse_config(each) for each in values], Console(quiet=True), **options)


def at(values: list[dict], folder: Path) -> list[dict]:
    """The same configurations with their files elsewhere."""
    return [{**each, "output": str(folder / Path(each["output"]).name)} for each in values]


def losses(path: Path) -> list[float]:
    lines = path.with_suffix(".run").joinpath("events.jsonl").read_text("utf-8").splitlines()
    return [event["loss"] for event in map(json.loads, lines) if event["event"] == "step"]


def test_each_learns_what_it_learns_alone(both, tmp_path):
    made = together(both)
    for path, values in zip(made, at(both, tmp_path / "alone"), strict=True):
        alone = train(parse_config(values), Console(quiet=True))
        assert losses(path) == pytest.approx(losses(alone), rel=1e-3)
        tuner, own = (torch.cat([p.flatten() for p in load_tuner(each).parameters()]) for each in (path, alone))
        assert (tuner - own).norm() < 0.01 * own.norm()
    assert losses(made[0])[1:4] != pytest.approx(losses(made[1])[1:4], rel=1e-3)
    names = [json.loads(load_tuner(path).metadata["scedit.teacher"])["name"] for path in made]
    assert names == ["teacher7", "teacher8"]
    assert (made[1].with_suffix(".run") / "report.html").is_file()


def test_one_pass_of_the_encoder_serves_both(both, monkeypatch):
    counted = {"passes": 0}
    update = loop.passes_together

    def counting(runs, losses):
        handle = runs[0].base.unet.conv_in.register_forward_hook(
            lambda *_: counted.update(passes=counted["passes"] + 1)
        )
        assert runs[1].base is runs[0].base
        try:
            return update(runs, losses)
        finally:
            handle.remove()

    monkeypatch.setattr(loop, "passes_together", counting)
    for values in both:
        values["teacher"] |= {"residuals": 2, "predictions": 0}
        values["loop"] |= {"steps": 3, "accumulate": 1}
    together(both)
    assert counted["passes"] == 3


def test_an_update_is_told_while_the_next_is_on_its_way(both, monkeypatch):
    order = []
    apply, tell = loop.apply_update, loop.tell
    monkeypatch.setattr(loop, "apply_update", lambda run, kept: (order.append(run.step + 1), apply(run, kept))[1])
    monkeypatch.setattr(loop, "tell", lambda run, told: (order.append(f"told {told.step}"), tell(run, told))[1])
    for values in both:
        values |= {"saving": {"every": 2}, "validation": {"every": 0}}
        values["loop"] |= {"steps": 3, "accumulate": 1}
    together(both)
    assert order[::2] == order[1::2]  # both students
    assert order[::2] == [1, 2, "told 1", "told 2", 3, "told 3"]  # after 2 and 3 it is saved


def test_a_stopped_run_resumes_bit_for_bit(both, tmp_path, monkeypatch):
    whole = [load_tuner(path).state_dict() for path in together(both)]
    again, asked = at(both, tmp_path / "again"), iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "stop_wish", lambda _self: "a test" if next(asked) == 5 else None)
        assert together(again) is None
    for before, path in zip(whole, together(again), strict=True):
        after = load_tuner(path).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_when_one_is_saved_all_are(both, tmp_path):
    """They resume from a step that all of them have saved."""
    both[0]["saving"], both[1]["saving"] = {"every": 2, "keep": 1}, {"every": 3, "keep": 1}
    together(both)
    kept = [steps_kept(Path(each["output"]).with_suffix(".run")) for each in both]
    assert kept == [[4, 6], [4, 6]]


def test_what_does_not_fit_the_base_is_told_before_it_is_loaded(both):
    both[1]["tuner"]["blocks"] = [99]
    with pytest.raises(ConfigError, match=r"tuner\.blocks: expected numbers from 0 to"):
        together(both)
    assert not Path(both[1]["output"]).with_suffix(".run").exists()


def test_what_cannot_share_a_run_is_told(both, tmp_path, capsys):
    one, other = both
    for changed, sentence in (
        ({"loop": {**other["loop"], "seed": 3}}, "expected what tuner.safetensors has in loop"),
        ({"data": {**other["data"], "resolution": 128}}, "tuner.safetensors has in data.resolution, found 128"),
        ({"teacher": {**other["teacher"], "residuals": 3}}, "expected the phases of "),
        ({"teacher": None}, "expected a teacher in each of several configurations"),
        ({"output": one["output"]}, "output: expected one for each configuration, found 1 for 2"),
    ):
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            together([one, {**other, **changed}])
    with pytest.raises(ConfigError, match="--resume: expected auto or never"):
        together(both, start="latest")
    next(iter(sorted((tmp_path / "hints").glob("*.png")))).unlink()
    with pytest.raises(ConfigError, match="expected hints for the same pictures as tuner"):
        together(both)
    files = []
    for number, values in enumerate(both):
        files.append(str(tmp_path / f"{number}.yaml"))
        Path(files[-1]).write_text(json.dumps(values), "utf-8")  # JSON is YAML
    assert main(["train", *files, "--cache-only"]) == 2
    assert "expected one configuration, found several" in capsys.readouterr().err
