"""Train on the MODEL of the graph: pictures in, tuner out, nothing to install."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...scedit_core import SCEditError
from ...scedit_core.conditions.trained import options_of
from ...scedit_core.fitting.rates import default_warmup
from ...scedit_core.fitting.settings import (
    ConditionSettings,
    DataSettings,
    LoopSettings,
    ObjectiveSettings,
    PreviewSettings,
    SavingSettings,
    Settings,
    TunerSettings,
    ValidationSettings,
    default_sampling,
)
from .. import folders
from ..host.managed import ManagedTuner
from .delivering import delivered, on_its_output, places_of, tuner_outputs
from .given_paths import contents, inside_input
from .page import TrainingPage, shown_on_page
from .running import Sources, run_training, was_trained_here
from .trainer_config import KINDS, STYLE

OWN_HINTS, NONE = "own hints", "none"
LossMapWire = io.Custom("LOSS_MAP")
# The page gives every seed a widget that changes it; another seed would be another training, and could not resume.
_FIXED = "fixed" if hasattr(io, "ControlAfterGenerate") else True


class SCEditTrainOnModel(io.ComfyNode):
    """MODEL and pictures -> SC_TUNER or CONTROL_NET, and the file in models/scedit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditTrainOnModel",
            display_name="Train SCEdit on Model",
            category="SCEdit/training",
            description="Trains a style or a control on the connected MODEL just as it is: merged, quantised, "
            "with LoRA or other tuners on it. Needs nothing but ComfyUI. The tuner goes to models/scedit; "
            "checkpoints, previews "
            "and a report to output/scedit. Cancel saves a checkpoint first, and queueing again resumes.",
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to train on: SD 1.5, SD 2.1, SDXL or a relative."),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="The pictures as latents, such as from Load Image Dataset and VAE Encode. Leave it open "
                    "and name a folder instead.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The captions of the latents in their order, from CLIP Text Encode: one for each picture, "
                    "or one for all.",
                ),
                io.Image.Input(
                    "hints",
                    optional=True,
                    tooltip="Hints of your own for a control, one for each picture, in the same order.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Encodes the pictures of a folder, and decodes previews.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Encodes the captions of a folder, and the empty caption: a tenth of the steps is trained "
                    "without a caption, so that guidance works.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="Folder of pictures, each with its caption in a .txt file of the same name. A path, or a "
                    "folder inside ComfyUI/input. Empty where latents are connected.",
                ),
                io.String.Input(
                    "name",
                    default="my_tuner",
                    tooltip="Name of the tuner's file in models/scedit, without ending. A cancelled training resumes "
                    "under the same name.",
                ),
                io.Combo.Input(
                    "kind",
                    options=[*KINDS, OWN_HINTS],
                    default=STYLE,
                    tooltip="Style: what the pictures have in common, as SC_TUNER. All others: a control by that "
                    "condition, as CONTROL_NET, whose hints are made from the pictures of the folder; own hints: those "
                    "that are connected.",
                ),
                io.Int.Input(
                    "steps",
                    default=400,
                    min=1,
                    max=1_000_000,
                    tooltip="Updates of the tuner: 400 for a style, some thousand for a control. Too few hardly show; "
                    "with too many it learns the pictures by heart.",
                ),
                io.Int.Input(
                    "batch",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip="Pictures in one pass, each with its own caption, noise and noise level. More learn more "
                    "steadily and take more memory.",
                ),
                io.Int.Input(
                    "accumulate",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip="Passes in one update: works like a larger batch, takes more time and no more memory.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=2e-4,
                    min=1e-7,
                    max=10.0,
                    step=1e-7,
                    round=False,
                    tooltip="How far an update goes: a higher rate learns faster, too high a one breaks the pictures. "
                    "0.0001 to 0.0005 for adamw, 0.0001 for adafactor and came, 0.001 for schedulefree_adamw, 1 for "
                    "prodigy. A connected list of rates trains a tuner with each in one pass; the best comes out.",
                ),
                io.Float.Input(
                    "ratio",
                    default=1.0,
                    min=0.01,
                    max=8.0,
                    step=0.01,
                    tooltip="Size of the tuner: 1 as the authors have it. More keeps more of the prompt and makes a "
                    "larger file. A list as with learning_rate.",
                ),
                io.Combo.Input(
                    "kernel",
                    options=["1", "3"],
                    default="1",
                    tooltip="Kernel of a control's hint convolutions: 1 is small, 3 follows fine hints better. A list "
                    "as with learning_rate.",
                ),
                io.Combo.Input(
                    "optimizer",
                    options=["adamw", "adamw8bit", "prodigy", "adafactor", "came", "schedulefree_adamw"],
                    default="adamw",
                    tooltip="Adamw and adafactor need nothing; adamw8bit needs the package bitsandbytes, prodigy needs "
                    "prodigyopt, came needs came-pytorch, schedulefree_adamw needs schedulefree.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "fp32", "bf16", "fp16"],
                    default="auto",
                    tooltip="Number format that the model computes in; auto is ComfyUI's own choice. The tuner "
                    "is always trained in float32.",
                ),
                io.Boolean.Input(
                    "checkpointing",
                    default=False,
                    tooltip="Less memory for about a third more time: the decoder is computed twice.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFF,
                    control_after_generate=_FIXED,
                    tooltip="Sets the noise, the noise levels and the order of the pictures.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=2048,
                    step=64,
                    tooltip="For a folder: pixels along the side of a square; others have as many pixels. 512 for SD "
                    "1.5, 768 for SD 2.1, 1024 for SDXL. Memory grows with its square.",
                ),
                io.String.Input(
                    "caption",
                    default="",
                    tooltip="For a folder: put before every caption, and used alone for pictures without one.",
                ),
                io.Int.Input(
                    "hold_out",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="How many pictures to keep out of training, to measure the tuner on; at most a "
                    "tenth of all, and none of fewer than 10.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=100,
                    min=0,
                    max=100_000,
                    tooltip="Steps between preview pictures and measurements; 0 for none.",
                ),
                io.Combo.Input(
                    "start_from",
                    options=[NONE, *folders.names(folders.KEY)],
                    default=NONE,
                    tooltip="A tuner in models/scedit whose weights and shapes the training begins with; ratio and "
                    "kernel do not count then.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    tooltip="On: resume from the last checkpoint of this name, where there is one. Off: begin anew; "
                    "the earlier run is kept in output/scedit/<name>/earlier.",
                ),
            ],
            outputs=[
                *tuner_outputs(),
                LossMapWire.Output("loss_map", display_name="loss_map", tooltip="The losses, for Plot Loss Graph."),
                io.Int.Output("steps_done", display_name="steps", tooltip="Updates that the tuner has had."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder=None, start_from=None, **_widgets) -> str:
        """Changes with the pictures of the folder and the tuner to begin with, so that new ones are trained on."""
        start = one(start_from)
        start = "" if start in (None, NONE) else folders.fingerprint(start, folders.KEY)
        return f"{contents(inside_input(one(folder) or ''))} {start}"

    @classmethod
    def execute(cls, model, name, kind, steps, **widgets: Any) -> io.NodeOutput:
        with shown_on_page(cls, one(name), one(widgets.get("resume", True))) as page:
            wired = single({"model": model, "name": name, "kind": kind, "steps": steps})
            given = single(widgets, _SWEPT)
            given["sweep"] = {
                key: [number(value) for value in widgets[key]]
                for key, number in _SWEPT.items()
                if len(widgets.get(key, ())) > 1
            }
            sources = sources_of(wired.pop("model"), given)
            tuner, losses = train_here(page, **wired, sources=sources, given=given)
        saved = {"text": [f"Saved {tuner.source}"]}
        return io.NodeOutput(*on_its_output(tuner), {"loss": losses}, page.step, ui=saved)


def train_here(
    page: TrainingPage, name: str, kind: str, steps: int, sources: Sources, given: dict[str, Any]
) -> tuple[ManagedTuner, list[float]]:
    """Train as the widgets say; gives the tuner, loaded from its file, and the loss of each step."""
    name, run, output = places_of(name)
    page.at(name, run, output)
    folder = inside_input(given.get("folder") or "")
    _check(sources, folder, kind)
    settings = settings_of(Path(output), run, folder, kind, steps, given, sources.teaching is not None)
    if os.path.exists(output) and not was_trained_here(run):
        raise SCEditError(
            f"name: expected one that no other tuner has, found {output}; choose another name, or move that file away"
        )
    start = "auto" if given.get("resume", True) else "never"
    losses = run_training(settings, sources, given["checkpointing"], start, page, given.get("sweep"))
    page.end("finished", ("finished", {"steps": page.step}))
    return delivered(name, output), losses or [0.0]


def single(widgets: dict[str, Any], swept: Iterable[str] = ()) -> dict[str, Any]:
    """Inputs as they are meant: all come in lists, of which those of pictures stay lists.

    Raises SCEditError for a list of anything else than pictures and `swept`.
    """
    for key, value in widgets.items():
        if isinstance(value, list) and len(value) > 1 and key not in (*_LISTS, *swept):
            may = ", ".join(swept)
            raise SCEditError(
                f"{key}: expected one value, found a list of {len(value)}; connect a single one"
                + (f" (only {may} can be lists)" if may else "")
            )
    return {key: value if key in _LISTS else one(value) for key, value in widgets.items()}


def sources_of(model: Any, given: dict[str, Any]) -> Sources:
    """What is connected."""
    return Sources(model, **{key: given.get(key) for key in (*_LISTS, "vae", "clip")})


def settings_of(
    output: Path, run: Path, folder: str, kind: str, steps: int, given: dict[str, Any], taught: bool
) -> Settings:
    """The settings that the node's widgets mean.  taught: by a ControlNet."""
    start_from = given.get("start_from", NONE)
    every = given.get("preview_every", 100)
    condition = None if kind == STYLE else _condition(kind, given.get("condition") or "custom")
    what = "sc" if kind == STYLE else "csc"
    return Settings(
        output=output,
        run_folder=run,
        tuner=TunerSettings(
            kind=what,
            ratio=given["ratio"],
            kernel=int(given["kernel"]),
            start_from=None if start_from == NONE else Path(folders.path_of(start_from, folders.KEY)),
        ),
        data=DataSettings(
            folder=Path(folder) if folder else None,
            resolution=given["resolution"],
            caption=given.get("caption", ""),
            condition=condition,
            annotators=[Path(path) for path in folder_paths.get_folder_paths(folders.ANNOTATORS)],
        ),
        objective=ObjectiveSettings(timestep_sampling=default_sampling(what, taught)),
        loop=LoopSettings(
            steps=steps,
            batch=given["batch"],
            accumulate=given["accumulate"],
            optimizer=given["optimizer"],
            learning_rate=given["learning_rate"],
            warmup=default_warmup(steps),
            precision=given["precision"],
            seed=given["seed"],
        ),
        saving=SavingSettings(every=max(1, min(500, steps // 4))),
        previews=PreviewSettings(every=every),
        validation=ValidationSettings(every=every, hold_out=given.get("hold_out", 0)),
    )


def _condition(kind: str, name: str) -> ConditionSettings:
    if kind == OWN_HINTS:
        return ConditionSettings("custom", name=name)
    return ConditionSettings(kind, asdict(options_of({"type": kind})))


_LISTS = ("latents", "positive", "hints")
# Of which a list may be connected: several tuners are then trained in one pass.
_SWEPT = {"learning_rate": float, "ratio": float, "kernel": int}


def one(value: Any) -> Any:
    """The value of a widget or wire that is no list of pictures; all come in lists."""
    return value[0] if isinstance(value, list) and value else value


def _check(sources: Sources, folder: str, kind: str) -> None:
    """Raise SCEditError at once for what cannot be trained on."""
    if sources.latents is None and not os.path.isdir(folder):
        raise SCEditError(
            f"folder: expected latents or a folder of pictures, found {f'none at {folder}' if folder else 'neither'}; "
            "connect latents, or put a folder into ComfyUI/input and write its name"
        )
    if sources.latents is not None and sources.positive is None and sources.teaching is None:
        raise SCEditError("positive: expected the captions of the latents, found none; connect CLIP Text Encode")
    if kind == OWN_HINTS and sources.hints is None:
        raise SCEditError("hints: expected hints of your own for this kind, found none; connect them")
