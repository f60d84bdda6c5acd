"""The parts of the demo: scenes, captions, edges, schedule of epochs; no model needed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from training.demo.judge import edge_f1
from training.demo.language import build_tokenizer, token_ids
from training.demo.measure import Target, drawn, edges_of, held_out_scenes
from training.demo.pictures import rendered
from training.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, draw, is_held_out, mirrored_caption, random_scene


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
    assert np.abs(draw(first).astype(int) - draw(first, "lantern")).mean() > 30


def test_unknown_style_is_refused():
    with pytest.raises(ValueError, match="plain"):
        draw(held_out_scenes(1)[0], "oil")


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


def test_every_caption_word_is_one_token(tmp_path):
    tokenizer = build_tokenizer(tmp_path)
    for scene in held_out_scenes(40):
        words = scene.caption.replace(",", " ,").split()
        assert len(tokenizer(scene.caption, add_special_tokens=False).input_ids) == len(words)
    assert token_ids(tokenizer, ["a zebra"]).shape == (1, 16)


def test_edge_f1_knows_shifts():
    pictures = drawn(held_out_scenes(4))
    hints = edges_of(pictures)
    assert edge_f1(pictures, hints) == pytest.approx(1.0)
    shifted = torch.roll(pictures, 2, dims=3)
    assert edge_f1(shifted, hints) > 0.9
    assert edge_f1(torch.roll(pictures, 12, dims=3), hints) < 0.75
    assert edge_f1(torch.zeros_like(pictures), hints) == 0.0


def test_targets_have_a_side():
    assert Target("x", 0.61, 0.60).met
    assert not Target("x", 0.59, 0.60).met
    assert not Target("x", 0.11, 0.10, at_least=False).met
