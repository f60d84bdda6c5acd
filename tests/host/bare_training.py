"""Trains with the node in a process that lacks the trainer's packages; for test_train_on_model.py."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

MISSING = ("diffusers", "accelerate", "pydantic", "rich", "jinja2", "matplotlib", "tensorboard", "webdataset")


class _Refused:
    """An import hook that knows none of them."""

    def find_spec(self, name: str, path=None, target=None):
        if name.partition(".")[0] in MISSING and _of_the_pack():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return


def _of_the_pack() -> bool:
    """Whether the pack itself asks: hosts use some of these packages for nodes of their own."""
    frame = sys._getframe(2)
    while frame is not None and "importlib" in str(frame.f_globals.get("__name__")):
        frame = frame.f_back
    return frame is not None and "scedit_pack_under_test" in str(frame.f_globals.get("__name__"))


def main(root: Path) -> None:
    """Two steps on the small model."""
    sys.meta_path.insert(0, _Refused())
    import conftest
    import folder_paths
    import torch

    for name in MISSING:
        sys.modules.pop(name, None)
    folder_paths.models_dir, folder_paths.output_directory = str(root / "models"), str(root / "output")
    conftest.load_pack()
    with torch.inference_mode():
        on_model = importlib.import_module(f"{conftest.PACK_NAME}.nodes.training.on_model")
        from small_model import prompt, small_model
        from train_on_model_widgets import WIDGETS

        given = {key: [value] for key, value in {**WIDGETS, "name": "bare", "steps": 2, "preview_every": 1}.items()}
        lists = {"latents": [{"samples": torch.randn(2, 4, 8, 8)}], "positive": [prompt(1)]}
        on_model.SCEditTrainOnModel.execute(model=[small_model()], **given, **lists)
    loaded = [name for name in MISSING if getattr(sys.modules.get(name), "__file__", None)]
    assert not {"diffusers", "accelerate"} & set(loaded), loaded


if __name__ == "__main__":
    main(Path(sys.argv[1]))
