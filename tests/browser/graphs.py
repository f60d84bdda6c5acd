"""The templates: what is behind each of workflows/*.json, and the note that is shown beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graph_parts import PHOTOGRAPH
from model_files import CHECKPOINTS as CHECKPOINT_FILES
from model_files import (
    CONTROLNET_CANNY,
    CONTROLNET_DEPTH,
    HED,
    JOINTS,
    MIDAS,
    PEOPLE,
    PIXEL_ART,
    SUBJECT,
    WATERCOLOR,
    XL,
    ModelFile,
    needed,
)
from template_graphs import (
    GIRL,
    canny_color_and_style,
    canny_on_model,
    completion,
    control_from_controlnet,
    control_in_the_graph,
    control_sdxl,
    edges_from_pictures,
    image_to_image,
    merge_and_save,
    style,
    style_control_and_controlnet,
    style_from_pictures,
    style_in_the_graph,
    subject,
    two_controls_with_masks,
    two_pass_upscale,
)

__all__ = ["CHECKPOINTS", "PHOTOGRAPH", "WORKFLOWS", "Workflow", "files", "note", "template"]

CHECKPOINTS = {family: file.name for family, file in CHECKPOINT_FILES.items()}
_POSE = {"person_threshold": 0.3, "joint_threshold": 0.3, "hands": True}


@dataclass(frozen=True)
class Workflow:
    """One template.

    graph: makes it.  family: "sd15", "sd21" or "sdxl".  name: of its file, which the page shows as its title.
    text: body of its note, in Markdown.  files: what it needs besides the checkpoint.
    """

    graph: Callable[[], dict]
    family: str
    name: str
    text: str
    files: tuple[ModelFile, ...] = ()


_CHOOSE_PICTURE = "Choose your picture in *Load Image*."
_SAME_SKIPS = "The order of the *Apply* nodes does not matter."
_ANY_STYLE = (
    "*Load SC-Tuner* takes every style for this model that the help of *SCEdit Tuner Info* lists, and those that you "
    "train."
)
_CONTROL = "*Apply ControlNet* takes a CSC-Tuner like any other ControlNet, with strength, range and chaining. "
_TRAIN = (
    "Put pictures into `input/{folder}`, each with a text file of the same name that says what is on it. *Run* trains "
    "on the checkpoint of the graph first ({time}) and then draws; the next *Run* uses the tuner at once. Later, and "
    "in other graphs, choose it in *{load}*. It needs nothing but ComfyUI. "
)
_DISTIL = (
    "Put pictures of any kind into `input/my_many_pictures`, a hundred or more; captions in text files of the same "
    "name help, but may be missing. *Run* has the ControlNet teach a small tuner on the checkpoint of the graph (2000 "
    "steps), and then draws with that; the next *Run* uses it at once. Later, and in other graphs, choose it in *Load "
    "CSC-Tuner*, without the ControlNet. For another ControlNet connect the images of its own preprocessor to "
    "`hints`, and the same pictures through *VAE Encode* to `latents`. "
)
_MANY = "A control needs thousands of pictures, and nobody has released one like this for SD 1.5. "

# Internal name: template, from easy to rich.
WORKFLOWS = {
    "sc_train_sd15": Workflow(
        style_from_pictures,
        "sd15",
        "SCEdit 01 Style from your pictures (SD 1.5)",
        _TRAIN.format(folder="my_pictures", time="400 steps", load="Load SC-Tuner") + "Twenty pictures are enough.",
    ),
    "sc_tuner_sd15": Workflow(
        lambda: style("sd15"), "sd15", "SCEdit 02 Style (SD 1.5)", _ANY_STYLE, (PIXEL_ART["sd15"],)
    ),
    "sc_tuner_sd21": Workflow(
        lambda: style("sd21"), "sd21", "SCEdit 03 Style (SD 2.1)", _ANY_STYLE, (PIXEL_ART["sd21"],)
    ),
    "sc_tuner_sdxl": Workflow(
        lambda: style("sdxl"), "sdxl", "SCEdit 04 Style (SDXL)", _ANY_STYLE, (PIXEL_ART["sdxl"],)
    ),
    "sc_subject_sdxl": Workflow(
        subject,
        "sdxl",
        "SCEdit 05 Subject (SDXL)",
        "The tuner was trained on one dog; write *sbu dog* in the prompt to get it.",
        (SUBJECT,),
    ),
    "sc_image_to_image_sd15": Workflow(
        image_to_image,
        "sd15",
        "SCEdit 06 Your picture in a style (SD 1.5)",
        f"{_CHOOSE_PICTURE} *denoise* of the sampler says how much is painted over: 0.4 a little, 0.8 nearly all.",
        (PIXEL_ART["sd15"],),
    ),
    "sc_two_pass_upscale_sd15": Workflow(
        two_pass_upscale,
        "sd15",
        "SCEdit 07 Style, twice as large (SD 1.5)",
        "The second sampler repaints the enlarged latent with the same tuned model, so that the style reaches the "
        "details too. Lower its *denoise* if things appear twice.",
        (PIXEL_ART["sd15"],),
    ),
    "merge_and_save_sd15": Workflow(
        merge_and_save,
        "sd15",
        "SCEdit 08 Two styles as one file (SD 1.5)",
        "The merged tuner gives exactly what both give one after the other. *Save SCEdit Tuner* writes it to "
        "`models/scedit/pixel_watercolor.safetensors`, over a file of that name.",
        (PIXEL_ART["sd15"], WATERCOLOR),
    ),
    "csc_canny_sdxl": Workflow(
        lambda: control_sdxl("canny", "SCEditCanny", GIRL, low=100.0, high=200.0, blur=0.0),
        "sdxl",
        "SCEdit 09 Follow edges (SDXL)",
        _CONTROL + _CHOOSE_PICTURE,
        (XL["canny"],),
    ),
    "csc_color_sdxl": Workflow(
        lambda: control_sdxl("color", "SCEditColorPalette", GIRL, cell=64),
        "sdxl",
        "SCEdit 10 Follow colours (SDXL)",
        f"The picture follows the colours of the squares and is free in everything else. {_CHOOSE_PICTURE}",
        (XL["color"],),
    ),
    "csc_soft_edge_sdxl": Workflow(
        lambda: control_sdxl("hed", "SCEditSoftEdge", GIRL, polarity="auto", safe=False, scribble=False),
        "sdxl",
        "SCEdit 11 Follow soft edges (SDXL)",
        f"The released control wants dark edges on light; *auto* makes them so. {_CHOOSE_PICTURE}",
        (XL["hed"], HED),
    ),
    "csc_depth_sdxl": Workflow(
        lambda: control_sdxl("depth", "SCEditDepth", GIRL, detector=MIDAS.name, invert=False),
        "sdxl",
        "SCEdit 12 Follow depth (SDXL)",
        f"Near is light. {_CHOOSE_PICTURE}",
        (XL["depth"], MIDAS),
    ),
    "csc_pose_sdxl": Workflow(
        lambda: control_sdxl("pose", "SCEditPose", GIRL, person_detector=PEOPLE.name, detector=JOINTS.name, **_POSE),
        "sdxl",
        "SCEdit 13 Follow a pose (SDXL)",
        f"People as OpenPose draws them. Without people in the picture the hint is black. {_CHOOSE_PICTURE}",
        (XL["pose"], PEOPLE, JOINTS),
    ),
    "csc_canny_on_model_sdxl": Workflow(
        canny_on_model,
        "sdxl",
        "SCEdit 14 Follow edges, block by block (SDXL)",
        "*Apply CSC-Tuner* works on the model, for positive and negative prompt in one pass, with a factor for each "
        f"block of the U-Net. {_CHOOSE_PICTURE}",
        (XL["canny"],),
    ),
    "csc_canny_color_and_style_sdxl": Workflow(
        canny_color_and_style,
        "sdxl",
        "SCEdit 15 Edges, colours and a style (SDXL)",
        f"{_CHOOSE_PICTURE} {_SAME_SKIPS}",
        (PIXEL_ART["sdxl"], XL["canny"], XL["color"]),
    ),
    "csc_style_and_controlnet_sdxl": Workflow(
        style_control_and_controlnet,
        "sdxl",
        "SCEdit 16 Style, edges and a ControlNet (SDXL)",
        f"Style, edges and, by an ordinary ControlNet, depth. {_CHOOSE_PICTURE}",
        (PIXEL_ART["sdxl"], XL["canny"], CONTROLNET_DEPTH, MIDAS),
    ),
    "csc_two_controls_with_masks_sdxl": Workflow(
        two_controls_with_masks,
        "sdxl",
        "SCEdit 17 Two controls, each in its half (SDXL)",
        "Edges hold the left half from beginning to end, colours the right half for the first 60 %. Use any mask: "
        f"paint one in *Load Image*'s mask editor. {_CHOOSE_PICTURE} {_SAME_SKIPS}",
        (XL["canny"], XL["color"]),
    ),
    "csc_train_canny_sd15": Workflow(
        edges_from_pictures,
        "sd15",
        "SCEdit 18 Train a control for edges (SD 1.5)",
        _TRAIN.format(folder="my_many_pictures", time="4000 steps", load="Load CSC-Tuner") + _MANY + _CHOOSE_PICTURE,
    ),
    "csc_completion_sd15": Workflow(
        completion,
        "sd15",
        "SCEdit 19 Train a control that continues pictures (SD 1.5)",
        "*SCEdit Completion* puts the picture on a larger canvas; what is black in the hint is painted. To fill a "
        "hole, connect a mask and set all margins to 0. "
        + _TRAIN.format(folder="my_many_pictures", time="4000 steps", load="Load CSC-Tuner")
        + _MANY
        + _CHOOSE_PICTURE,
    ),
    "sc_train_in_graph_sdxl": Workflow(
        lambda: style_in_the_graph("sdxl"),
        "sdxl",
        "SCEdit 20 Style from your pictures (SDXL)",
        _TRAIN.format(folder="my_pictures", time="400 steps", load="Load SC-Tuner") + "Twenty pictures are enough.",
    ),
    "csc_train_in_graph_sdxl": Workflow(
        lambda: control_in_the_graph("sdxl"),
        "sdxl",
        "SCEdit 21 Train a control for edges (SDXL)",
        _TRAIN.format(folder="my_many_pictures", time="4000 steps", load="Load CSC-Tuner")
        + "A control needs thousands of pictures. Templates 09 to 17 use released ones.",
    ),
    "csc_distil_canny_sd15": Workflow(
        lambda: control_from_controlnet("sd15"),
        "sd15",
        "SCEdit 22 Make a small control from a ControlNet (SD 1.5)",
        _DISTIL + _CHOOSE_PICTURE,
        (CONTROLNET_CANNY["sd15"],),
    ),
    "csc_distil_canny_sdxl": Workflow(
        lambda: control_from_controlnet("sdxl"),
        "sdxl",
        "SCEdit 23 Make a small control from a ControlNet (SDXL)",
        _DISTIL + _CHOOSE_PICTURE,
        (CONTROLNET_CANNY["sdxl"],),
    ),
}


def template(stem: str) -> Path:
    """The saved file of a template."""
    return Path(__file__).resolve().parents[2] / "workflows" / f"{WORKFLOWS[stem].name}.json"


def files(stem: str) -> list[ModelFile]:
    """All files that a template needs, its checkpoint first."""
    workflow = WORKFLOWS[stem]
    return [CHECKPOINT_FILES[workflow.family], *workflow.files]


def note(stem: str) -> str:
    """The note of a workflow, in Markdown."""
    workflow = WORKFLOWS[stem]
    where = "**Files, in the folder of ComfyUI**"
    if any(file.name.endswith(".bin") for file in workflow.files):
        where += (
            " (use these links, since ComfyUI's list of missing files downloads no `.bin`; keep the names of folders)"
        )
    thumbnail = _OTHER_THUMBNAILS.get(stem, _THUMBNAIL)
    return f"### {workflow.name}\n\n{workflow.text}\n\n{where}\n\n{needed(files(stem))}\n\n{thumbnail}"


_THUMBNAIL = "The picture in the list of templates was drawn by a small test model, not by these files."
_DRAWN_HINT = _THUMBNAIL.replace("test model", "test model from a drawn hint")
_OTHER_THUMBNAILS = {
    "csc_soft_edge_sdxl": _DRAWN_HINT,
    "csc_depth_sdxl": _DRAWN_HINT,
    "csc_pose_sdxl": "The picture in the list of templates shows what *SCEdit Pose* draws from joints marked by hand.",
}
