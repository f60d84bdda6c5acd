"""Train SCEdit on Model, queued again with something changed: resumed, begun anew or refused, and never mixed up."""

from __future__ import annotations

import folder_paths
import pytest
import torch
from run_left import distance, events
from small_model import prompt, small_model
from train_on_model_widgets import latents

GIVEN = {"latents": latents(2), "positive": [prompt(1)], "steps": 2}


def test_another_tuner_to_start_from_is_another_run(pack, train):
    """Not the tuner that came of the first one."""
    first = train(small_model(), name="first", **GIVEN)[0]
    second = train(small_model(), name="second", seed=5, learning_rate=0.05, **GIVEN)[0]
    folder_paths.filename_list_cache.clear()
    given = {**GIVEN, "name": "on", "learning_rate": 1e-7}
    train(small_model(), start_from="first.safetensors", **given)
    for steps in (2, 4):
        with pytest.raises(Exception, match=r"other values for start_from.*turn resume off"):
            train(small_model(), start_from="second.safetensors", **{**given, "steps": steps})
    anew = train(small_model(), start_from="second.safetensors", resume=False, **given)[0]
    assert distance(anew.tuner, second.tuner) < 1e-4 < 0.1 < distance(anew.tuner, first.tuner)


def test_a_checkpoint_of_another_trainer_is_not_taken(train, folders):
    """The command line's runs name their base by its weights, which no MODEL is known by."""
    train(small_model(), **GIVEN)
    for checkpoint in (folders / "output" / "scedit" / "style" / "checkpoints").rglob("state.pt"):
        state = torch.load(checkpoint, weights_only=True)
        torch.save({**state, "files": {**state["files"], "base": "a digest"}}, checkpoint)
    with pytest.raises(Exception, match=r"base \(another file\)"):
        train(small_model(), **GIVEN)


@pytest.mark.parametrize("changed", ["retrained", "strength", "percents", "block_weights", "mask", "side"])
def test_a_tuner_in_effect_is_known_by_its_weights_and_settings(pack, train, training, changed):
    one = train(small_model(), name="one", learning_rate=0.05, **GIVEN)[0]
    other = train(small_model(), name="one", learning_rate=0.01, resume=False, **GIVEN)[0]
    usual = {"percents": (0.0, 1.0), "block_weights": None, "mask": None, "side": "both"}
    settings = {"percents": (0.5, 1.0), "block_weights": [0.0] * 12, "mask": torch.zeros(1, 64, 64), "side": "positive"}
    model = small_model()

    def fingerprint(tuner=one, strength=1.0, **more) -> str:
        patch = pack.patch.SkipPatch(tuner, strength, **{**usual, **more})
        return training.host_base.HostBase(pack.patch.patched(model, patch), "auto", False, None).fingerprint()

    assert fingerprint() == fingerprint()
    others = {"retrained": {"tuner": other}, "strength": {"strength": 0.5}}
    assert fingerprint() != fingerprint(**others.get(changed, {changed: settings.get(changed)}))


def test_fewer_steps_than_the_tuner_has_had_tell_how_many_it_had(train):
    train(small_model(), **{**GIVEN, "steps": 4})
    *_, steps = train(small_model(), **GIVEN)
    assert steps == 4


def test_a_single_run_after_a_sweep_is_kept_when_the_sweep_comes_again(pack, train, folders):
    rates = {"learning_rate": [1e-3, 5e-3], "sweep": True}
    swept = train(small_model(), **rates, **GIVEN)[0]
    single = train(small_model(), learning_rate=1e-2, **GIVEN)[0]
    again = train(small_model(), **rates, **GIVEN)[0]
    assert distance(again.tuner, swept.tuner) == 0
    kept = sorted((folders / "output" / "scedit" / "style" / "earlier").glob("*/style.safetensors"))
    assert kept, [each["message"] for each in events(folders, "note")]
    assert min(distance(pack.core.load_tuner(file), single.tuner) for file in kept) == 0


@pytest.mark.parametrize("widget", ["seed", "batch", "name"])
def test_a_list_where_one_value_is_meant_is_refused(train, widget):
    with pytest.raises(Exception, match=rf"{widget}: expected one value, found a list of 2"):
        train(small_model(), sweep=True, **{**GIVEN, widget: {"name": ["a", "b"]}.get(widget, [1, 2])})
