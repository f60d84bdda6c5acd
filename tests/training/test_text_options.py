"""How captions are encoded where it is said: long ones in chunks, other layers, weights; and what is refused."""

from __future__ import annotations

import pytest
import small_checkpoints as small
import torch
from PIL import Image

from scedit_core.errors import BaseModelError, ConfigError
from training.bases.loading import load_base, text_options
from training.bases.text_encoding import PLAIN, TextOptions, encode, parts_of, token_count
from training.config_data import TextConfig
from training.config_file import parse_config
from training.data.opening import open_data
from training.seeing.sampling import preview_scheduler, sample, starting_noise

LONG = "a red star over a blue house " * 20


def test_a_short_caption_is_as_the_pipeline_reads_it(base_folder):
    base, chunked = load_base(base_folder), load_base(base_folder, text=TextConfig(max_tokens=150))
    short = base.encode_captions(["a red star"]).states
    assert torch.allclose(chunked.encode_captions(["a red star"]).states, short, atol=1e-5)
    assert base.text_fingerprint != chunked.text_fingerprint
    assert base.text_fingerprint == load_base(base_folder, text=TextConfig()).text_fingerprint  # caches stay
    assert (base.caption_limit, chunked.caption_limit) == (16, 30)
    assert base.caption_lengths([LONG]) == chunked.caption_lengths([LONG])


def test_rows_of_other_lengths_are_repeated_which_attention_does_not_see(base_folder):
    base = load_base(base_folder, text=TextConfig(max_tokens=225))
    both = base.encode_captions(["a red star", LONG])
    assert both.states.shape[1] == 3 * 16
    noisy, time = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    alone = base.predict(noisy, time, base.encode_captions(["a red star"]), None)
    assert torch.allclose(base.predict(noisy, time, both.rows([0]), None), alone, atol=1e-5)


def test_long_captions_reach_training_and_previews(values, base_folder, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (64, 64), (90 * i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text((LONG[: len(LONG) // 2], "a cat")[i])
    values["data"] |= {"folder": str(folder)}
    values["objective"] = {"caption_dropout": 0.0}
    config = parse_config({**values, "text": {"max_tokens": 750}})
    base = load_base(base_folder, text=config.text)
    data = open_data(base, config)
    batch = data.batch(0, 2)
    assert batch.text.states.shape[1] == 8 * 16
    assert not [r for r in data.remarks if "tokens" in r.what]
    cut = open_data(load_base(base_folder), parse_config(values))
    assert [r.advice for r in cut.remarks if "tokens" in r.what] == [
        "raise text.max_tokens, shorten them, or put what matters first"
    ]
    assert cut.batch(0, 2).text.states.shape[1] == 16
    text, scheduler = base.encode_captions(["", LONG]), preview_scheduler(base, config.objective)
    assert torch.isfinite(sample(base, scheduler, text, starting_noise(64, 64, 1), 2, 5.0)).all()


def test_weights_are_text_unless_asked(base_folder):
    assert parts_of("a (red:1.4) \\(star\\)", False) == [("a (red:1.4) (star)", 1.0)]
    assert parts_of("a (red:1.4) \\(star\\)", True) == [("a ", 1.0), ("red", 1.4), (" (star)", 1.0)]
    assert parts_of("((a))", True) == [("a", pytest.approx(1.21))]
    assert parts_of("(" * 3000 + "x" + ")" * 3000, True)
    tokenizer = load_base(base_folder).pipeline.tokenizer
    assert token_count("a (star:1.2)", TextOptions(weights=True), tokenizer) == 4


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"clip_skip": 0}, "expected -1 for the last layer"),
        ({"max_tokens": 100}, r"text\.max_tokens"),
        ({"max_tokens": 825}, r"text\.max_tokens"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(values, told, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_config({**values, "text": told})


def test_clip_skip_of_each_family(tmp_path):
    words = small.write_tokenizer(tmp_path / "words")
    pipelines = {family: small.small_pipeline(family, words) for family in small.FAMILIES}

    def layer(family: str, skip: int | None) -> int | None:
        return text_options(TextConfig(clip_skip=skip), pipelines[family], family).layer

    layers = {family: pipelines[family].text_encoder.config.num_hidden_layers for family in small.FAMILIES}
    assert [layer("sd15", skip) for skip in (None, -1, -2, 2)] == [None, None, -2, -2]
    assert [layer("sd2", skip) for skip in (None, -2)] == [None, None]
    assert [layer("sdxl", skip) for skip in (None, -2)] == [None, None]
    with pytest.raises(BaseModelError, match=r"text\.clip_skip: expected -2 or none for SDXL, .* found -1"):
        layer("sdxl", -1)
    with pytest.raises(BaseModelError, match=r"text\.clip_skip: expected from -2 to .* found -1"):
        layer("sd2", -1)
    with pytest.raises(BaseModelError, match=rf"expected from -1 to -{layers['sd15']}, .* found -24"):
        layer("sd15", -24)
    deeper = text_options(TextConfig(clip_skip=-2), pipelines["sd15"], "sd15")
    parts = [pipelines["sd15"].tokenizer], [pipelines["sd15"].text_encoder], False
    with torch.no_grad():
        assert not torch.allclose(encode("star", deeper, *parts).states, encode("star", PLAIN, *parts).states)


def test_the_run_is_another_where_captions_are_read_otherwise(values):
    from scedit_core.fitting.identity import differences, settings_of

    before = settings_of(parse_config(values))
    assert differences(before, parse_config({**values, "text": {"max_tokens": 150}}))
    del before["text"]  # of a checkpoint from before there was the section
    assert not differences(before, parse_config(values))
