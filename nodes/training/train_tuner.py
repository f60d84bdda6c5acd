"""Training from the graph: checkpoint and folder of pictures in, tuner out."""

from __future__ import annotations

import gc
import logging
import os
import time

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ...scedit_core import SCEditError
from .. import folders
from . import trainer_config
from .delivering import delivered, on_its_output, places_of, tuner_outputs
from .given_paths import contents, inside_input
from .page import TrainingPage, shown_on_page
from .trainer_process import TrainingProcess, check_requirements

_LOOK_SECONDS = 0.2
_CONFIG = "node.yaml"  # beside the config.yaml in which the trainer spells out all its keys


class SCEditTrainTuner(io.ComfyNode):
    """Checkpoint and pictures -> SC_TUNER or CONTROL_NET, and the file in models/scedit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditTrainTuner",
            display_name="Train SCEdit Tuner",
            category="SCEdit/training",
            description="Trains a style or a control from a folder of pictures, in a process of its own. The tuner "
            "goes to models/scedit; checkpoints, previews and a report to output/scedit. Cancel saves a checkpoint "
            "first, and queueing again resumes from it.",
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=folder_paths.get_filename_list("checkpoints"),
                    tooltip="The base model that the tuner is for: an SD 1.5, SD 2.1 or SDXL checkpoint.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="Folder of pictures, each with its caption in a .txt file of the same name. A path, or a "
                    "folder inside ComfyUI/input.",
                ),
                io.String.Input(
                    "name",
                    default="my_tuner",
                    tooltip="Name of the tuner's file in models/scedit, without ending. A training that was cancelled "
                    "resumes under the same name.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(trainer_config.KINDS),
                    default=trainer_config.STYLE,
                    tooltip="Style: what the pictures have in common, as SC_TUNER. All others: a control by that "
                    "condition, as CONTROL_NET, whose hints are made from the pictures.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(trainer_config.PRESETS),
                    default="balanced",
                    tooltip="Fast: 400 steps for a style, 4000 for a control. Balanced: 1200 and 15000. Careful: 3000 "
                    "and 50000 at half the learning rate, with a running mean of the weights.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Updates of the tuner. 0 for those of the preset.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=2048,
                    step=64,
                    tooltip="Pixels along the side of a square; others have as many pixels. 512 for SD 1.5, 768 for "
                    "SD 2.1, 1024 for SDXL.",
                ),
                io.String.Input(
                    "caption",
                    default="",
                    optional=True,
                    tooltip="Put before every caption, and used alone for pictures without one: for instance a word "
                    "that you will use to ask for the style.",
                ),
                io.Boolean.Input(
                    "low_memory",
                    default=False,
                    optional=True,
                    tooltip="Less GPU memory for more time: the base in 8 bits, and decoder blocks computed twice.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    optional=True,
                    tooltip="On: resume from the last checkpoint of this name, if there is one. Off: begin anew; the "
                    "earlier run is kept in output/scedit/<name>/earlier.",
                ),
                io.String.Input(
                    "config_file",
                    default="",
                    optional=True,
                    tooltip="A YAML file with keys of the trainer, which win over the widgets; docs/training.md lists "
                    "them. A path, or a file inside ComfyUI/input. Empty for none.",
                ),
            ],
            outputs=tuner_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name=None, folder="", config_file="", **_widgets) -> str:
        """Changes with the checkpoint, the pictures, the configuration file and what that names, so that new ones are
        trained on.

        The host gives None for what comes from another node; it looks at that node by itself.
        """
        file = inside_input(config_file or "")
        base = ckpt_name and folder_paths.get_full_path("checkpoints", ckpt_name)
        named = [base or "", inside_input(folder or ""), file, *(trainer_config.paths_in(file) if file else [])]
        return " ".join(contents(path) for path in named)

    @classmethod
    def execute(
        cls,
        ckpt_name,
        folder,
        name,
        kind,
        preset,
        steps,
        resolution,
        caption="",
        low_memory=False,
        resume=True,
        config_file="",
    ) -> io.NodeOutput:
        with shown_on_page(cls, name, resume, has_keys=True) as page:
            check_requirements()
            name, run, output = places_of(name)
            page.at(name, run, output)
            config = trainer_config.from_widgets(
                base=folder_paths.get_full_path_or_raise("checkpoints", ckpt_name),
                folder=inside_input(folder),
                kind=kind,
                preset=preset,
                steps=steps,
                resolution=resolution,
                caption=caption,
                low_memory=low_memory,
                annotators=folder_paths.get_folder_paths(folders.ANNOTATORS),
            )
            if config_file.strip():
                config = trainer_config.with_file(config, trainer_config.from_file(inside_input(config_file)))
            _check_pictures(config)
            config |= {"output": output, "run": str(run)}
            trainer_config.write(config, run / _CONFIG)
            _free_models()
            on_cpu = comfy.model_management.get_torch_device().type == "cpu"
            _train(TrainingProcess(run / _CONFIG, run, resume, on_cpu), page, resume)
            return io.NodeOutput(*on_its_output(delivered(name, output)), ui={"text": [f"Saved {output}"]})


def _train(process: TrainingProcess, page: TrainingPage, resume: bool) -> None:
    """Follow the trainer to its end, and stop it where the host is cancelled.

    Raises SCEditError with the trainer's own sentence.
    """
    way_on = "queue again to resume" if resume else "turn resume on and queue again to resume"
    heard: dict[str, dict] = {}
    bar = comfy.utils.ProgressBar(1)

    def look() -> None:
        for event in process.events():
            heard[str(event.get("event"))] = event
            try:
                page.take(event)
            except Exception:  # the training is worth more than its panel
                logging.exception("SCEdit: the panel leaves out what the trainer has said")

    try:
        while process.running:
            look()
            if page.steps:
                bar.update_absolute(page.step, page.steps)  # raises where the host is cancelled
            comfy.model_management.throw_exception_if_processing_interrupted()
            if page.stop_wanted:
                raise comfy.model_management.InterruptProcessingException
            time.sleep(_LOOK_SECONDS)
        look()
    except comfy.model_management.InterruptProcessingException:
        look()
        page.say(("stopping", {}))
        process.stop(comfy.model_management.processing_interrupted, trained="plan" in heard)
        look()
        raise
    finally:
        process.end()
    if process.status == 0 and "finished" in heard:
        page.end("finished", ("finished", {"steps": page.step}))
        return
    if process.status == 0:
        sentence = (
            f"training: expected to train to the end, found it stopped at step {page.step} by another program; {way_on}"
        )
    else:
        sentence = heard.get("error", {}).get("message") or process.failure()
    raise SCEditError(sentence)


def _free_models() -> None:
    """Give the trainer the memory that the host's models have."""
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.soft_empty_cache()


def _check_pictures(config: dict) -> None:
    """Raise SCEditError at once where there is no folder; what is in it is the trainer's to judge."""
    data = config.get("data")
    if not isinstance(data, dict) or "shards" in data or "folders" in data:
        return
    folder = data.get("folder")
    if not folder or not os.path.isdir(str(folder)):
        raise SCEditError(
            f"folder: expected a folder of pictures, found {'none' if not folder else f'no folder at {folder}'}; "
            "write its path, or put it into ComfyUI/input and write its name"
        )
