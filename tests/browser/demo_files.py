"""What the graphs of help_graphs.py need, but for the style, which has to be trained."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import help_graphs
import skimage.data
from PIL import Image

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]


def place_files(base: Path) -> None:
    """The control of the embedded base, empty files for tuners that are only shown, a drawn scene and a photograph."""
    tuners = base / "models" / "scedit"
    tuners.mkdir(parents=True, exist_ok=True)
    for name in help_graphs.ONLY_SHOWN:
        (tuners / name).touch()
    shutil.copy(PACK / "demo" / "canny.safetensors", tuners / help_graphs.CANNY)
    (base / "input").mkdir(exist_ok=True)
    shutil.copy(HERE / help_graphs.SCENE, base / "input")
    (base / "input" / help_graphs.PHOTOGRAPH).write_bytes(photograph())


def place_training(base: Path) -> None:
    """The style's pictures, and what the trainer is told beside the node's widgets."""
    checkpoints = base / "models" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / help_graphs.BASE).touch()
    pictures = base / "input" / "lanterns"
    if not pictures.exists():
        shutil.copytree(PACK / "demo" / "style", pictures)
    keys = {
        "base": str(PACK / "demo"),
        "tuner": {"ratio": 4.0},
        "loop": {"batch": 4, "learning_rate": 2e-3, "warmup": 10},
        "previews": {"every": 10, "count": 2},
        "validation": {"every": 0},
    }
    (base / "input" / "lanterns.yaml").write_text(json.dumps(keys))  # JSON is YAML


def photograph() -> bytes:
    """A real photograph of 512x512 pixels, as PNG."""
    data = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(data, "PNG")
    return data.getvalue()
