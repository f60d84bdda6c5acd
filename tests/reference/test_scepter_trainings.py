"""The examples of the authors' six trainings against the files that their package has of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from training.config_file import load_config

EXAMPLES = Path(__file__).parents[2] / "training" / "examples"
FOUND = importlib.util.find_spec("scepter")
METHODS = None if FOUND is None else Path(FOUND.submodule_search_locations[0]) / "methods" / "scedit"
PAIRS = {
    "authors_style_sd15.yaml": "t2i/sd15_512_sce_t2i.yaml",
    "authors_style_sd21.yaml": "t2i/sd21_768_sce_t2i.yaml",
    "authors_style_sdxl.yaml": "t2i/sdxl_1024_sce_t2i.yaml",
    "authors_hed_sd15.yaml": "ctr/sd15_512_sce_ctr_hed.yaml",
    "authors_canny_sd21.yaml": "ctr/sd21_768_sce_ctr_canny.yaml",
    "authors_depth_sdxl.yaml": "ctr/sdxl_1024_sce_ctr_depth.yaml",
}
CONDITIONS = {"HedAnnotator": "soft_edge", "CannyAnnotator": "canny", "MidasDetector": "depth"}


@pytest.mark.skipif(METHODS is None, reason="scepter is not installed (requirements/reference.txt)")
@pytest.mark.parametrize("name", PAIRS)
def test_an_example_has_the_authors_numbers(name):
    theirs = yaml.safe_load((METHODS / PAIRS[name]).read_text("utf-8"))["SOLVER"]
    ours = load_config(EXAMPLES / name)
    model, optimizer, sampled = theirs["MODEL"], theirs["OPTIMIZER"], theirs["SAMPLE_ARGS"]
    assert ours.base.name == model["PRETRAINED_MODEL"].partition("@")[2]
    assert ours.prediction == ("v_prediction" if model["PARAMETERIZATION"] == "v" else "auto")
    assert (ours.loop.steps, ours.loop.accumulate) == (theirs["MAX_STEPS"], theirs["ACCU_STEP"])
    assert ours.loop.batch == theirs["TRAIN_DATA"]["BATCH_SIZE"]
    assert ours.loop.optimizer == optimizer["NAME"].lower()
    assert ours.loop.learning_rate == optimizer["LEARNING_RATE"]
    assert ours.loop.weight_decay == float(optimizer["WEIGHT_DECAY"])  # PyYAML reads 1e-2 as text
    assert (ours.loop.schedule, ours.loop.warmup) == ("constant", 0)
    assert "LR_SCHEDULER" not in theirs
    assert theirs["RESCALE_LR"] is False  # where it is true the rate is multiplied by the batch and divided by 640
    assert not any("GRADIENT_CLIP" in hook for hook in theirs["TRAIN_HOOKS"])
    assert {"float16": "fp16"}[theirs["DTYPE"]] == ours.loop.precision
    assert ours.objective.min_snr_gamma == model["MIN_SNR_GAMMA"]
    assert ours.objective.zero_terminal_snr == model["ZERO_TERMINAL_SNR"]
    assert ours.objective.caption_dropout == model.get("P_ZERO", 0.0)
    assert (ours.previews.steps, ours.previews.guidance) == (sampled["SAMPLE_STEPS"], sampled["GUIDE_SCALE"])
    assert sampled["DISCRETIZATION"] == "trailing"
    assert (ours.data.resolution, ours.data.resolution) == tuple(sampled["IMAGE_SIZE"])
    if ours.tuner.kind == "sc":
        assert ours.tuner.ratio == model["TUNER_MODEL"]["SC_TUNER_CFG"]["DOWN_RATIO"]
        return
    control = model["CONTROL_MODEL"]
    assert ours.tuner.ratio == control.get("DOWN_RATIO", 1.0)
    assert ours.tuner.kernel == control["DENSE_HINT_KERNAL"]
    assert ours.tuner.stem_width == control["PRE_HINT_OUT_CHANNELS"]
    assert ours.tuner.hint_ratio == control.get("PRE_HINT_DIM_RATIO", 1.0)
    annotator = model["CONTROL_ANNO"]
    condition = ours.data.condition
    assert condition.type == CONDITIONS[annotator["NAME"]]
    if condition.type == "canny":
        assert (condition.low, condition.high) == (annotator["LOW_THRESHOLD"], annotator["HIGH_THRESHOLD"])
