"""The embedded base as it ships: its size and shape, what its judge can see, and that its numbers hold."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from scedit_core import CSCTuner, SCEditError, SCTuner, inspect_tuner, load_tuner
from scedit_core.errors import BaseModelError, TrainingError
from scedit_core.fitting.following import edge_f1
from training.bases.loading import load_base
from training.config_file import load_config
from training.demo.build import SHIPPED, STYLE_SEEDS, TRAINED
from training.demo.judge import judge_pictures, load_judge
from training.demo.measure import drawn, edges_of, held_out_scenes, plainly_drawn
from training.demo.run import draw_sheet, run_demo, train_in_view
from training.demo.sampling import reconstruct, sample
from training.demo.styles import STYLES, TUNER_STYLES
from training.loop import train

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture(scope="module")
def base():
    return load_base(DEMO)


@pytest.fixture(scope="module")
def judge():
    return load_judge(DEMO / "judge.safetensors")


@pytest.fixture(scope="module")
def control():
    return load_tuner(DEMO / "canny.safetensors")


@pytest.fixture(scope="module")
def shipped():
    return load_tuner(DEMO / f"{SHIPPED}.safetensors")


def test_base_is_small_and_complete(base):
    assert sum(f.stat().st_size for f in DEMO.rglob("*") if f.is_file()) <= 20e6
    assert len(base.layout) == 9
    assert base.layout.strides == (4, 4, 4, 2, 2, 2, 1, 1, 1)
    assert base.prediction == "v_prediction"


def test_style_set(base):
    pictures = sorted((DEMO / "style").glob("*.png"))
    assert 24 <= len(pictures) <= 32
    assert all(p.with_suffix(".txt").is_file() for p in pictures)


@pytest.mark.parametrize("style", STYLES)
def test_judge_sees_scenes_drawn_and_reconstructed(base, judge, style):
    scenes = held_out_scenes(100, 77)
    pictures = drawn(scenes, style)
    for seen in (pictures, reconstruct(base, pictures)):
        verdict = judge_pictures(judge, seen, scenes)
        assert verdict.agreement >= 0.98
        for name in TUNER_STYLES:
            assert verdict.styles[name] == pytest.approx(float(name == style), abs=0.02)
    wrong = judge_pictures(judge, pictures, scenes[1:] + scenes[:1])
    assert wrong.agreement < 0.2


@pytest.mark.parametrize(("style", "least"), [("plain", 28), ("lantern", 28), ("blueprint", 26), ("watercolour", 28)])
def test_autoencoder_keeps_every_style(base, style, least):
    pictures = drawn(held_out_scenes(32, 78), style)
    error = (reconstruct(base, pictures).clamp(0, 1) - pictures).square().mean()
    assert -10 * error.log10() >= least


def test_base_and_control_keep_their_promise(base, judge, control):
    assert isinstance(control, CSCTuner)
    scenes = held_out_scenes(24, seed=5)
    prompts, pictures = [s.caption for s in scenes], drawn(scenes)
    hints = edges_of(pictures)
    plain = sample(base, prompts, 100)
    steered = sample(base, prompts, 100, [(control, 1.0)], hints)
    assert judge_pictures(judge, plain, scenes).agreement >= 0.75
    ceiling = edge_f1(reconstruct(base, pictures), hints)
    with_control, without = edge_f1(steered, hints), edge_f1(plain, hints)
    assert ceiling > 0.8
    assert with_control >= 0.7 * ceiling
    assert with_control >= 1.3 * without


def test_shipped_style_draws_what_the_prompt_says(base, judge, shipped):
    assert isinstance(shipped, SCTuner)
    scenes = held_out_scenes(24, seed=6)
    verdict = judge_pictures(judge, sample(base, [s.caption for s in scenes], 100, [(shipped, 1.0)]), scenes)
    assert verdict.styles[SHIPPED] >= 0.9
    assert verdict.agreement >= 0.75


def test_hints_ask_for_outlines_where_the_style_has_them():
    scenes = held_out_scenes(24, seed=6)
    inked = {style: edges_of(plainly_drawn(scenes, style)).mean() for style in TUNER_STYLES}
    assert inked["lantern"] == inked["watercolour"] < 0.75 * inked["blueprint"]


def test_control_file_tells_what_it_is():
    told = inspect_tuner(DEMO / "canny.safetensors")
    assert told["kind"] == "csc"
    assert told["metadata"]["scedit.prediction"] == "v_prediction"
    assert '"canny"' in told["metadata"]["scedit.condition"]


def test_style_trains_and_a_sheet_is_drawn(base, control, shipped, tmp_path):
    config = load_config(DEMO / "style.yaml")
    config = config.model_copy(
        update={"output": tmp_path / "lantern.safetensors", "loop": config.loop.model_copy(update={"steps": 3})}
    )
    style = load_tuner(train(config))
    path = draw_sheet(base, {TRAINED: style, SHIPPED: shipped}, control, tmp_path / "sheet.png", rows=2)
    with Image.open(path) as sheet:
        assert sheet.size[0] > 1000
        assert sheet.size[1] > 4 * 160


def test_every_style_of_the_sheet_has_its_pictures():
    assert set(STYLE_SEEDS) == set(TUNER_STYLES)
    assert {TRAINED, SHIPPED} <= set(STYLE_SEEDS)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("judge.safetensors", "judge.*damaged.*restore"),
        ("canny.safetensors", "canny"),
        ("unet/diffusion_pytorch_model.safetensors", "unet"),
        ("vae/config.json", "vae"),
    ],
)
def test_a_damaged_file_is_told_in_a_sentence(tmp_path, name, sentence):
    shutil.copytree(DEMO, tmp_path / "demo")
    (tmp_path / "demo" / name).write_bytes(b"cut off")
    with pytest.raises(SCEditError, match=sentence):
        run_demo(tmp_path / "demo", tmp_path / "out")


def test_missing_files_are_named(tmp_path):
    shutil.copytree(DEMO, tmp_path / "demo")
    (tmp_path / "demo" / "judge.safetensors").unlink()
    shutil.rmtree(tmp_path / "demo" / "style")
    with pytest.raises(BaseModelError, match=r"found no judge\.safetensors, style; clone"):
        run_demo(tmp_path / "demo", tmp_path / "out")


def test_an_interrupted_demo_resumes(tmp_path):
    folder, output = tmp_path / "demo", tmp_path / "out"
    shutil.copytree(DEMO, folder)
    text = (
        (folder / "style.yaml").read_text("utf-8").replace("steps: 300", "steps: 12").replace("batch: 16", "batch: 2")
    )
    (folder / "style.yaml").write_text(text, "utf-8")
    events = output / "lantern.run" / "events.jsonl"

    def told(name: str) -> list[dict]:
        lines = map(json.loads, events.read_text("utf-8").splitlines()) if events.exists() else ()
        return [e for e in lines if e["event"] == name]

    def stop_after_a_step() -> None:
        while not told("step"):
            time.sleep(0.01)
        (output / "lantern.run" / "stop").touch()

    stopper = threading.Thread(target=stop_after_a_step)
    stopper.start()
    with pytest.raises(TrainingError, match="start it again and it resumes"):
        train_in_view(folder, output, Console(quiet=True))
    stopper.join()
    train_in_view(folder, output, Console(quiet=True))
    assert told("plan")[-1]["first_step"] > 0
    assert [e["step"] for e in told("step")] == list(range(1, 13))
    train_in_view(folder, output, Console(quiet=True))
    assert [e["first_step"] for e in told("plan")] == [0]  # after a finished one a demo begins anew
