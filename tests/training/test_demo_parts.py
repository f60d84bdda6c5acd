"""The parts of the demo: scenes, captions, edges, schedule of epochs; no model needed."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from scedit_core.errors import TrainingError
from scedit_core.fitting.following import edge_f1
from training.demo.base import train_base
from training.demo.language import build_tokenizer, token_ids
from training.demo.measure import Target, drawn, edges_of, held_out_scenes
from training.demo.painting import draw, style_named
from training.demo.pictures import family, rendered, write_control_pictures
from training.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    is_held_out,
    mirrored_caption,
    objects_alone,
    random_scene,
)
from training.demo.stage import Stage
from training.demo.styles import PLAIN, STYLE_WORDS, STYLES, TUNER_STYLES, near_tuner_style, random_style

DEMO = Path(__file__).parents[2] / "demo"


def test_one_in_six_combinations_is_held_out():
    held = [c for c in itertools.product(SHAPES, COLOURS, BACKGROUNDS) if is_held_out(*c)]
    assert len(held) == 30
    assert {s for s, _, _ in held} == set(SHAPES)
    assert {c for _, c, _ in held} == set(COLOURS)


def test_training_scenes_never_show_a_held_out_combination():
    _, scenes = rendered(300, seed=4)
    assert not any(is_held_out(i.shape, i.colour, s.background) for s in scenes for i in s.items)
    assert all(is_held_out(i.shape, i.colour, s.background) for s in held_out_scenes(50) for i in s.items)


def test_a_seed_draws_the_same_picture():
    first, second = (random_scene(np.random.default_rng(3)) for _ in range(2))
    assert isinstance(first, Scene)
    assert first == second
    assert np.array_equal(draw(first), draw(second))
    assert draw(first).shape == (128, 128, 3)
    for one, other in itertools.combinations(STYLES, 2):
        assert np.abs(draw(first, one).astype(int) - draw(first, other)).mean() > 15


def test_the_family_is_wide_and_leaves_the_styles_of_tuners_out():
    styles = [random_style(np.random.default_rng(i)) for i in range(2000)]
    assert 0.35 < sum(s == PLAIN for s in styles) / len(styles) < 0.45
    assert not any(near_tuner_style(s) for s in styles)
    assert all(near_tuner_style(s) for s in TUNER_STYLES.values())
    assert {s.tone for s in styles} == {"dark", "pale", "natural"}
    assert {s.fill for s in styles} == {"flat", "shaded", "hatched", "dotted"}
    assert all(sum(word in s.words() for s in styles) > 40 for word in STYLE_WORDS)


def test_every_part_of_a_tuner_style_is_seen_in_the_family():
    styles = [random_style(np.random.default_rng(i)) for i in range(2000)]
    dark = [s for s in styles if s.tone == "dark"]
    assert any(s.line is None for s in dark)
    assert any(s.glow > 0 for s in dark)
    assert any(s.line is not None and np.mean(s.line) > 150 for s in dark)
    assert any(s.line is None and s.soft > 0 for s in styles)
    assert any(s.rim > 0 and s.tone == "pale" for s in styles)


def test_few_captions_tell_of_the_style():
    scenes, styles = family(500, seed=8)
    told = [any(word in STYLE_WORDS for word in s.caption.replace(",", "").split()) for s in scenes]
    assert 0.05 < sum(told) / len(told) < 0.2
    for scene, style in zip(scenes, styles, strict=True):
        words = set(scene.caption.replace(",", "").split()) & set(STYLE_WORDS)
        assert words <= set(style.words())


def test_unknown_style_is_refused():
    with pytest.raises(ValueError, match="plain"):
        style_named("oil")


@pytest.mark.parametrize(
    ("text", "flipped"),
    [
        ("a red star on the left, at night", "a red star on the right, at night"),
        ("a red star on the right", "a red star on the left"),
        ("a red star in the middle, at night", "a red star in the middle, at night"),
        ("a red star and a blue cat, in a room", "a blue cat and a red star, in a room"),
    ],
)
def test_mirrored_captions(text, flipped):
    assert mirrored_caption(text) == flipped


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("a red star on the left, at night, dark glowing", "a red star"),
        ("a red star and a blue cat, in a room", "a red star and a blue cat"),
        ("a red star", "a red star"),
    ],
)
def test_objects_alone(text, alone):
    assert objects_alone(text) == alone


def test_a_stage_resumes_where_it_was_saved(tmp_path):
    layer = torch.nn.Linear(2, 2)
    stage = Stage("some", tmp_path, 3, {"layer": layer})
    assert stage.learning_rate(1.0, warmup_steps=2) == pytest.approx(0.5)
    stage.tick(0.0)
    stage.save()
    again = torch.nn.Linear(2, 2)
    stage = Stage("some", tmp_path, 3, {"layer": again})
    assert (stage.step, stage.finished) == (1, False)
    assert torch.equal(layer.weight, again.weight)
    stage.tick(0.0)
    stage.tick(0.0)
    assert stage.finished
    assert Stage("some", tmp_path, 3, {"layer": again}).finished


def test_a_stage_of_another_version_is_refused(tmp_path):
    layer = torch.nn.Linear(2, 2)
    torch.save({"step": 5, "seconds": 3.0, "parts": {"layer": layer.state_dict()}}, tmp_path / "some.state.pt")
    with pytest.raises(TrainingError, match=r"some\.state\.pt.*delete"):
        Stage("some", tmp_path, 3, {"layer": torch.nn.Linear(2, 2)})
    (tmp_path / "some.state.pt").write_bytes(b"cut off")
    with pytest.raises(TrainingError, match=r"some\.state\.pt.*delete"):
        Stage("some", tmp_path, 3, {"layer": torch.nn.Linear(2, 2)})


def test_a_base_of_no_steps_is_the_one_before(tmp_path):
    tokenizer = build_tokenizer(tmp_path)
    unet, text = train_base(tmp_path, None, tokenizer, 0, DEMO)
    before = load_file(DEMO / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(unet.state_dict()[name], weight.float()) for name, weight in before.items())
    pipeline = StableDiffusionPipeline.from_pretrained(DEMO, torch_dtype=torch.float32)
    captions = ["a red star and a blue cat, at night"]  # words may have other numbers
    made, expected = (
        encoder(token_ids(words, captions)).last_hidden_state
        for encoder, words in ((text, tokenizer), (pipeline.text_encoder, pipeline.tokenizer))
    )
    assert torch.allclose(made, expected, atol=1e-4)


def test_every_caption_word_is_one_token(tmp_path):
    tokenizer = build_tokenizer(tmp_path)
    for scene in family(300, seed=9)[0]:
        words = scene.caption.replace(",", " ,").split()
        assert len(tokenizer(scene.caption, add_special_tokens=False).input_ids) == len(words) <= 14
    assert token_ids(tokenizer, ["a zebra"]).shape == (1, 16)


def test_edge_f1_knows_shifts():
    pictures = drawn(held_out_scenes(4))
    hints = edges_of(pictures)
    assert edge_f1(pictures, hints) == pytest.approx(1.0)
    shifted = torch.roll(pictures, 2, dims=3)
    assert edge_f1(shifted, hints) > 0.9
    assert edge_f1(torch.roll(pictures, 12, dims=3), hints) < 0.75
    assert edge_f1(torch.zeros_like(pictures), hints) == 0.0


def test_hints_of_the_control_are_of_the_same_drawing_without_its_border(tmp_path):
    write_control_pictures(tmp_path / "pictures", tmp_path / "hints", 48, seed=3)
    names = sorted(path.name for path in (tmp_path / "hints").iterdir())
    assert len(names) == len(list((tmp_path / "pictures").glob("*.txt"))) == 48
    pictures, hints = (
        torch.from_numpy(np.stack([cv2.imread(str(tmp_path / kind / name)) for name in names])[..., ::-1].copy())
        for kind in ("pictures", "hints")
    )
    pictures, hints = (each.permute(0, 3, 1, 2).float() / 255 for each in (pictures, hints))
    assert set(hints.unique().tolist()) == {0.0, 1.0}
    same = (edges_of(pictures) == hints).flatten(1).all(1)
    assert 0.4 < same.float().mean() < 0.9  # the others have a border, soft edges or glow
    assert edge_f1(pictures, hints) > 0.9


def test_targets_have_a_side():
    assert Target("x", 0.61, 0.60).met
    assert not Target("x", 0.59, 0.60).met
    assert not Target("x", 0.11, 0.10, at_least=False).met
