"""The embedded base as it ships: its size and shape, what its judge can see, and that its numbers hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from scedit_core import CSCTuner, inspect_tuner, load_tuner
from training.bases.loading import load_base
from training.config_file import load_config
from training.demo.judge import edge_f1, judge_pictures, load_judge
from training.demo.measure import drawn, edges_of, held_out_scenes
from training.demo.pictures import rendered
from training.demo.run import draw_sheet
from training.demo.sampling import reconstruct, sample
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


def test_base_is_small_and_complete(base):
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    assert sum(f.stat().st_size for p in parts for f in (DEMO / p).iterdir()) <= 20e6
    assert len(base.layout) == 9
    assert base.layout.strides == (4, 4, 4, 2, 2, 2, 1, 1, 1)
    assert base.prediction == "v_prediction"


def test_style_set(base):
    pictures = sorted((DEMO / "style").glob("*.png"))
    assert 24 <= len(pictures) <= 32
    assert all(p.with_suffix(".txt").is_file() for p in pictures)


@pytest.mark.parametrize("style", ["plain", "lantern"])
def test_judge_sees_drawn_scenes(judge, style):
    images, scenes = rendered(100, 77, style, held_out=True)
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    verdict = judge_pictures(judge, pictures, scenes)
    assert verdict.agreement >= 0.95
    assert verdict.lantern == pytest.approx(1.0 if style == "lantern" else 0.0, abs=0.02)
    wrong = judge_pictures(judge, pictures, scenes[1:] + scenes[:1])
    assert wrong.agreement < 0.2


def test_base_and_control_keep_their_promise(base, judge, control):
    assert isinstance(control, CSCTuner)
    scenes = held_out_scenes(24, seed=5)
    prompts, pictures = [s.caption for s in scenes], drawn(scenes)
    hints = edges_of(pictures)
    plain = sample(base, prompts, 100)
    steered = sample(base, prompts, 100, [(control, 1.0)], hints)
    assert judge_pictures(judge, plain, scenes).agreement >= 0.5
    ceiling = edge_f1(reconstruct(base, pictures), hints)
    with_control, without = edge_f1(steered, hints), edge_f1(plain, hints)
    assert ceiling > 0.8
    assert with_control >= 0.7 * ceiling
    assert with_control >= 1.6 * without


def test_control_file_tells_what_it_is():
    told = inspect_tuner(DEMO / "canny.safetensors")
    assert told["kind"] == "csc"
    assert told["metadata"]["scedit.prediction"] == "v_prediction"
    assert '"canny"' in told["metadata"]["scedit.condition"]


def test_style_trains_and_a_sheet_is_drawn(base, control, tmp_path):
    config = load_config(DEMO / "style.yaml")
    config = config.model_copy(
        update={"output": tmp_path / "lantern.safetensors", "loop": config.loop.model_copy(update={"steps": 3})}
    )
    style = load_tuner(train(config))
    path = draw_sheet(base, style, control, tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        assert sheet.size[0] > 1000
        assert sheet.size[1] > 1200
