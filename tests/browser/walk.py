"""Walks the README's way to a first picture with a tuner of one's own, on an empty ComfyUI and its real page.

python tests/browser/walk.py HOST OUT [--frontend STATIC]

The checkpoint has SD 1.5's true shape and random weights, so the picture shows nothing; what counts is the way to it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host"), str(PACK)]

import graphs  # noqa: E402
from chromium import requirements  # noqa: E402
from host_server import Server  # noqa: E402
from model_files import CHECKPOINTS  # noqa: E402
from walk_options import parsed, walk_parser  # noqa: E402

SMALL = {
    "SCEditTrainOnModel": {"steps": 4, "resolution": 128, "preview_every": 0, "accumulate": 1},
    "EmptyLatentImage": {"width": 128, "height": 128},
    "KSampler": {"steps": 2},
}


def main() -> None:
    """Walk; prints what was done, and what the page said."""
    given = parsed(walk_parser(__doc__))
    template = graphs.WORKFLOWS["sc_train_sd15"]
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as folder:
        base = Path(folder)
        pack = base / "custom_nodes" / "ComfyUI-SCEdit"
        print("1. git clone; 2. pip install")
        subprocess.run(["git", "clone", "-q", str(PACK), str(pack)], check=True)
        install = [sys.executable, "-m", "pip", "install", "--dry-run", "-q", "-r", str(pack / "requirements.txt")]
        subprocess.run(install, check=True)  # dry: this Python has what it needs, and other things beside it
        print("3. a checkpoint; 4. pictures and captions")
        from checkpoint import random_checkpoint

        random_checkpoint(base / "models" / "checkpoints" / CHECKPOINTS["sd15"].name)
        shutil.copytree(PACK / "demo" / "style", base / "input" / "my_pictures")
        print("5. start ComfyUI; 6. Templates, ComfyUI-SCEdit, the first; 7. Run")
        with Server(given.host, pack, base, options=given.options) as server:
            command = ["node", str(HERE / "walk.mjs"), server.url, str(given.out), template.name, json.dumps(SMALL)]
            done = subprocess.run(
                command, env=os.environ | requirements(), capture_output=True, text=True, timeout=1800, check=False
            )
            print(done.stdout, done.stderr, server.log.read_text()[-1500:] if done.returncode else "")
        made = sorted(path.relative_to(base / "output") for path in (base / "output").rglob("*") if path.is_file())
        print("output:", *made, sep="\n  ")


if __name__ == "__main__":
    main()
