"""A training run of several processes, each of which keeps its own weights; for test_resume.py.

Started by torch.distributed.run with the configuration and a folder as its arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scedit_core import save_tuner
from scedit_core.fitting import loop
from scedit_core.fitting.run import Run
from training.config_file import load_config
from training.loop import train


def main(config: Path, folder: Path) -> None:
    """Train, and save `folder`/rank-N.safetensors on every process before the main one saves the result."""
    finish = loop.finish

    def save_own(run: Run) -> Path:
        save_tuner(run.tuner, folder / f"rank-{run.part[0]}.safetensors")
        return finish(run)

    loop.finish = save_own
    train(load_config(config))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
