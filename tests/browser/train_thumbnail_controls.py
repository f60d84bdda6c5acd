"""Trains the controls behind some pictures in the list of templates, on the embedded base and its drawn scenes.

python tests/browser/train_thumbnail_controls.py FOLDER [NAME ...]

FOLDER gets NAME.safetensors: soft_edge, depth, color and completion, about three minutes each on one core.  Started
again, it goes on where it was stopped.  Soft edges and depth are drawn, since no detector knows such pictures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import yaml

PACK = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PACK)]

from training.config_file import load_config  # noqa: E402
from training.demo import scenes  # noqa: E402
from training.demo.pictures import rendered  # noqa: E402
from training.loop import train  # noqa: E402

SCENES = 800
STEPS = {"soft_edge": 300, "depth": 300, "color": 700, "completion": 300}
# The trainer makes these hints itself.
CONDITIONS = {"color": {"type": "color_palette", "cell": 8}, "completion": {"type": "completion"}}


def soft_edges(picture: np.ndarray) -> np.ndarray:
    """Dark on light, as the released control wants them: [h,w,3] uint8 to [h,w] uint8."""
    lines = cv2.GaussianBlur(cv2.Canny(picture, 100, 200), (0, 0), 1.5)
    return 255 - np.clip(2.5 * lines.astype(np.float32), 0, 255).astype(np.uint8)


def depth(scene: scenes.Scene, size: int = scenes.SIZE) -> np.ndarray:
    """Near is light: the ground from its horizon to the viewer, with flat objects on it; [size,size] uint8."""
    horizon = 0.42 if scene.background == "beach" else np.random.default_rng(scene.seed).uniform(0.66, 0.74)
    down = (np.arange(size, dtype=np.float32) / size - horizon) / (1 - horizon)
    ground = np.where(down < 0, 0, 50 + 130 * down).astype(np.uint8)
    canvas = np.ascontiguousarray(np.broadcast_to(ground[:, None], (size, size)))
    for item in scene.items:
        for points, _ in scenes.placed(item, size):
            cv2.fillPoly(canvas, [points], 235, cv2.LINE_AA)
    return canvas


DRAWN: dict[str, Callable[[np.ndarray, scenes.Scene], np.ndarray]] = {
    "soft_edge": lambda picture, _: soft_edges(picture),
    "depth": lambda _, scene: depth(scene),
}


def write_pictures(folder: Path) -> None:
    """Plain scenes with their captions, and the drawn hints of each."""
    for name in ("pictures", *DRAWN):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, (picture, scene) in enumerate(zip(*rendered(SCENES, seed=41), strict=True)):
        cv2.imwrite(str(folder / "pictures" / f"{i:05d}.png"), picture[..., ::-1])
        (folder / "pictures" / f"{i:05d}.txt").write_text(scene.caption + "\n", "utf-8")
        for name, draw in DRAWN.items():
            cv2.imwrite(str(folder / name / f"{i:05d}.png"), draw(picture, scene))


def train_control(folder: Path, name: str) -> Path | None:
    """One control, None where it was stopped, as the canny control of the embedded base is trained."""
    values = yaml.safe_load((PACK / "training" / "demo" / "control.yaml").read_text("utf-8"))
    values |= {"base": str(PACK / "demo"), "output": str(folder.resolve() / f"{name}.safetensors")}
    values["title"] = f"{name} control for the embedded demo base"
    values["data"] |= {"folder": str(folder.resolve() / "pictures"), "cache": str(folder.resolve() / "cache")}
    if name in DRAWN:
        values["data"] |= {"hints": str(folder.resolve() / name)}
        values["data"]["condition"] = {"type": "custom", "name": name, "fitting": "smooth", "nothing": "black"}
    else:
        values["data"]["condition"] = CONDITIONS[name]
    if name == "completion":
        values["tuner"]["kernel"] = 3  # sees across the border of what is missing
    values["loop"]["steps"] = STEPS[name]
    config = folder / f"{name}.yaml"
    config.write_text(json.dumps(values), "utf-8")  # JSON is YAML
    return train(load_config(config))


def main(folder: Path, names: Iterable[str]) -> None:
    """Train them."""
    cv2.setNumThreads(1)
    if not (folder / "pictures" / f"{SCENES - 1:05d}.txt").exists():
        write_pictures(folder)
    for name in names:
        if train_control(folder, name) is None:
            sys.exit("stopped; start it again to go on")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or STEPS)
