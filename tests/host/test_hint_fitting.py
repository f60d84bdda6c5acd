"""A hint in a file is seen by a training and by both routes of the nodes bit for bit alike, whatever its size."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
import warm
from comfy_extras.nodes_compositing import JoinImageWithAlpha
from PIL import Image
from safetensors import safe_open
from small_model import noise_of, sample, small_model
from small_tuners import apply_csc, control_prompts, csc_tuner

import nodes as host_nodes

CONDITIONS = {
    "canny": {"type": "canny"},
    "soft_edge": {"type": "soft_edge"},
    "light_edge": {"type": "soft_edge", "polarity": "light_on_dark"},
    "depth": {"type": "depth"},
    "inverted": {"type": "depth", "invert": True},
    "pose": {"type": "pose"},
    "segmentation": {"type": "segmentation"},
    "color_palette": {"type": "color_palette"},
    "completion": {"type": "completion"},
    "custom": {"type": "custom", "name": "mine"},
    "custom_lines": {"type": "custom", "name": "mine", "fitting": "lines", "nothing": "white"},
}
RATIOS = (0.3, 0.37, 0.5, 0.77, 1.0, 1.01, 1.37, 2.0, 2.71, 3.0, 4.0)
SHAPES = {"square": (128, 128), "wide": (128, 64), "odd": (131, 127)}  # of pictures, width and height
KINDS = ("RGB", "L", "RGBA", "P")


def names() -> list[tuple[str, str, float, str]]:
    """(name, shape, ratio, kind) of each hint: every ratio for every shape, the kinds of files taking turns."""
    made = []
    for s, shape in enumerate(SHAPES):
        for r, ratio in enumerate(RATIOS):
            kind = KINDS[(s + r) % len(KINDS)]
            made.append((f"{shape}_{r:02}_{kind}", shape, ratio, kind))
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the hints of each condition, after a trainer's process has read them."""
    root = tmp_path_factory.mktemp("fitting")
    (root / "conditions.json").write_text(json.dumps(CONDITIONS))
    draw = np.random.default_rng(1)
    for condition in CONDITIONS:
        for part in ("pictures", "hints"):
            (root / condition / part).mkdir(parents=True)
        for name, shape, ratio, kind in names():
            size = SHAPES[shape]
            pixels = draw.integers(0, 256, (size[1], size[0], 3), np.uint8)
            Image.fromarray(pixels).save(root / condition / "pictures" / f"{name}.png")
            w, h = (round(side * ratio) for side in size)
            channels = {"RGB": 3, "L": 1, "RGBA": 4, "P": 3}[kind]
            hint = draw.integers(0, 256, (h, w, channels), np.uint8) * (draw.random((h, w, 1)) < 0.5)
            hint = Image.fromarray(hint.astype(np.uint8).squeeze())
            (hint.convert("P") if kind == "P" else hint).save(root / condition / "hints" / f"{name}.png")
    code = Path(__file__).with_name("training_hints.py").read_text("utf-8")
    done = warm.run_code(code, str(root))
    assert done.returncode == 0, done.stdout[-3000:]
    return root


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("route", ["model", "control"])
def test_training_and_nodes_see_the_same_hint(pack, trained, monkeypatch, route, shape):
    """All conditions and ratios at once, each a control of its own on one model."""
    monkeypatch.setattr(folder_paths, "get_annotated_filepath", lambda name, *_: name)
    model, positive, negative, seen = small_model(), None, None, {}
    with safe_open(trained / "hints.safetensors", "pt") as file:
        told = file.metadata()
        expected = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    wanted = [f"{c}/{name}" for c in CONDITIONS for name, own, _, _ in names() if own == shape]
    for key in wanted:
        condition, name = key.split("/")
        control = csc_tuner(pack, blocks=[11], kernel=1, stem_width=16)
        control.tuner.tuner.metadata["scedit.condition"] = told[condition]
        control.tuner.encoder.register_forward_pre_hook(lambda _, args, key=key: seen.__setitem__(key, args[0]))
        image = loaded(trained / condition / "hints" / f"{name}.png")
        if route == "model":
            model = apply_csc(pack, model, control, image)
        else:
            positive, negative = control_prompts(control, image, positive=positive, negative=negative)
    height, width = expected[wanted[0]].shape[-2:]
    sample(model, positive, negative, noise=noise_of(1, height // 8, width // 8), steps=1)
    for key in wanted:
        assert torch.equal(seen[key][0], expected[key]), key
        assert torch.equal(seen[key][0], expected[f"{key}/shard"]), key
    assert len(wanted) == len(CONDITIONS) * len(RATIOS)


def loaded(path: Path) -> torch.Tensor:
    """What Load Image gives, joined with its alpha where the file has one."""
    image, mask = host_nodes.LoadImage().load_image(str(path))
    if Image.open(path).mode != "RGBA":
        return image
    joined = JoinImageWithAlpha()
    node = getattr(joined, "join_image_with_alpha", None) or joined.execute
    found = node(image, mask)
    return found[0] if isinstance(found, tuple) else found.args[0]
