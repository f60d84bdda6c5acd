"""Writes docs/training_report.jpg, the report of the demo's canny control after some more updates.

python tests/browser/make_report_picture.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK)]

from chromium import requirements  # noqa: E402
from make_workflows import as_jpeg  # noqa: E402

from training.config_file import load_config  # noqa: E402
from training.demo.pictures import write_pictures  # noqa: E402
from training.loop import train  # noqa: E402

WINDOW = (1100, 2990)
WIDTH = 825  # of the picture


def main() -> None:
    """Train, and photograph the report without the folders of this machine."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pictures(folder / "pictures", 80, seed=51, style="plain")
        values = {
            "base": str(PACK / "demo"),
            "output": str(folder / "canny.safetensors"),
            "title": "Canny control for the embedded demo base",
            "tuner": {"kind": "csc", "start_from": str(PACK / "demo" / "canny.safetensors")},
            "data": {"folder": str(folder / "pictures"), "resolution": 128, "condition": {"type": "canny"}},
            "loop": {"steps": 120, "batch": 8, "learning_rate": 1e-3, "warmup": 20},
            "previews": {"every": 60, "count": 4},
            "validation": {"every": 20, "images": 8},
        }
        (folder / "canny.yaml").write_text(json.dumps(values), "utf-8")  # JSON is YAML
        train(load_config(folder / "canny.yaml"))
        report = next(folder.rglob("report.html"))
        report.write_text(report.read_text("utf-8").replace(f"{folder}/", ""), "utf-8")
        picture = folder / "report.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--allow-file-access-from-files"]
        options += ["--window-size={},{}".format(*WINDOW), f"--screenshot={picture}", report.as_uri()]
        subprocess.run([requirements()["CHROMIUM"], *options], check=True)
        as_jpeg(picture, PACK / "docs" / "training_report.jpg", WIDTH)


if __name__ == "__main__":
    main()
