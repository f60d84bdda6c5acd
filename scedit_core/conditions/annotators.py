"""Detectors that some conditions need: where they lie, what is installed, and where to take what is missing.

Each has a folder of its own in models/scedit_annotators.  Nothing is fetched unless `download` is called.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConditionError
from ..weight_files import first_line, shown

FOLDER = "scedit_annotators"
# Folders of transformers.
WEIGHTS, _CONFIGS = ("model.safetensors", "pytorch_model.bin"), ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Annotator:
    """A detector that can be installed.

    name:       its folder in models/scedit_annotators.
    condition:  what is made with it; "people" is the first half of a pose.
    weights:    names that its weight file may have; a download takes the first that the repository has.
    others:     files that stand beside it.
    megabytes:  what the download takes.
    licence:    of the weights.
    repository: on the Hugging Face Hub.
    """

    name: str
    condition: str
    weights: tuple[str, ...]
    others: tuple[str, ...]
    megabytes: int
    licence: str
    repository: str

    def weight_file(self, roots: Iterable[str | os.PathLike]) -> Path | None:
        """Its weights in the first of `roots` where all of its files are; None where it is not installed."""
        for folder in (Path(root) / self.name for root in roots):
            found = [folder / name for name in self.weights if (folder / name).is_file()]
            if found and all((folder / name).is_file() for name in self.others):
                return found[0]
        return None


ANNOTATORS = {
    each.name: each
    for each in (
        Annotator(
            name="hed",
            condition="soft_edge",
            weights=("ControlNetHED.pth", "ControlNetHED.safetensors"),
            others=(),
            megabytes=29,
            licence="Apache-2.0",
            repository="lllyasviel/Annotators",
        ),
        Annotator(
            name="dpt-hybrid-midas",
            condition="depth",
            weights=WEIGHTS,
            others=_CONFIGS,
            megabytes=490,
            licence="Apache-2.0",
            repository="Intel/dpt-hybrid-midas",
        ),
        Annotator(
            name="depth-anything-v2-small",
            condition="depth",
            weights=WEIGHTS,
            others=_CONFIGS,
            megabytes=99,
            licence="Apache-2.0",
            repository="depth-anything/Depth-Anything-V2-Small-hf",
        ),
        Annotator(
            name="rtdetr-r50",
            condition="people",
            weights=WEIGHTS,
            others=_CONFIGS,
            megabytes=172,
            licence="Apache-2.0",
            repository="PekingU/rtdetr_r50vd_coco_o365",
        ),
        Annotator(
            name="vitpose-base",
            condition="pose",
            weights=WEIGHTS,
            others=_CONFIGS,
            megabytes=344,
            licence="Apache-2.0",
            repository="usyd-community/vitpose-base-simple",
        ),
        Annotator(
            name="upernet-convnext-small",
            condition="segmentation",
            weights=WEIGHTS,
            others=_CONFIGS,
            megabytes=328,
            licence="MIT",
            repository="openmmlab/upernet-convnext-small",
        ),
        Annotator(
            name="segformer-b0-ade",
            condition="segmentation",
            weights=WEIGHTS,
            others=_CONFIGS,
            megabytes=15,
            licence="NVIDIA, non-commercial",
            repository="nvidia/segformer-b0-finetuned-ade-512-512",
        ),
        Annotator(
            name="oneformer-swin-tiny",
            condition="segmentation",
            weights=WEIGHTS,
            others=(*_CONFIGS, "vocab.json", "merges.txt"),
            megabytes=204,
            licence="MIT",
            repository="shi-labs/oneformer_ade20k_swin_tiny",
        ),
    )
}


def annotator(name: str) -> Annotator:
    """The detector of that name.  Raises ConditionError for a name that none has."""
    if name not in ANNOTATORS:
        raise ConditionError(
            f"annotator: expected one of {', '.join(ANNOTATORS)}, found {first_line(name)}; choose one of them"
        )
    return ANNOTATORS[name]


def names_for(condition: str) -> list[str]:
    """The detectors that a condition can be made with, the authors' own first."""
    return [each.name for each in ANNOTATORS.values() if each.condition == condition]


def installed_weights(name: str, roots: Iterable[str | os.PathLike], command: str | None = None) -> Path:
    """The weight file of an installed detector.

    roots:   folders that hold detectors, such as models/scedit_annotators.
    command: a line that fetches it, told where it is missing.
    Raises ConditionError that says what to put where: folder, size, licence, repository and file names.
    """
    wanted, roots = annotator(name), list(roots)
    path = wanted.weight_file(roots)
    if path is None:
        files = " or ".join(wanted.weights) + "".join(f", {other}" for other in wanted.others)
        where = shown(Path(roots[0]) / name) if roots else f"{FOLDER}/{name}"
        way = "take" if command is None else "fetch it with the next line, or take"
        raise ConditionError(
            f"{wanted.condition}: expected a detector in {where}, found none; {way} {wanted.megabytes} MB "
            f"({wanted.licence}) from huggingface.co/{wanted.repository}: {files}" + (f"\n{command}" if command else "")
        )
    return path


def default_folder() -> Path:
    """models/scedit_annotators of the host that the pack is installed in, else of the current folder."""
    above = Path(__file__).resolve().parents[3]
    base = above.parent if above.name == "custom_nodes" else Path.cwd()
    return base / "models" / FOLDER


def download(name: str, root: str | os.PathLike) -> Path:
    """Fetch a detector into its folder in `root`, with a progress bar; gives its weight file.

    Raises ConditionError where huggingface_hub is not installed or the files cannot be had.
    """
    wanted = annotator(name)
    folder = Path(root) / name
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        for file in wanted.others:
            hf_hub_download(wanted.repository, file, local_dir=folder)
        for file in wanted.weights:
            try:
                hf_hub_download(wanted.repository, file, local_dir=folder)
            except EntryNotFoundError:
                continue
            break
    except Exception as error:  # no network, no space, no such package: the reason is in the error's first line
        raise ConditionError(
            f"{name}: expected a download, found a failure; try again, or put the files of "
            f"huggingface.co/{wanted.repository} into {shown(folder)} by hand ({first_line(error)})"
        ) from error
    return installed_weights(name, [root])
