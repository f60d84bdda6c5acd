"""The graphs behind workflows/*.json, in the host's API form, each with the note that is shown beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graph_parts import (
    PHOTOGRAPH,
    SIZES,
    node,
    picture,
    sampler,
    with_control,
    with_control_on_model,
    with_controlnet_from,
    with_hint,
    with_style,
    with_style_from,
)
from model_files import CHECKPOINTS as CHECKPOINT_FILES
from model_files import (
    CONTROLNET_CANNY,
    CONTROLNET_DEPTH,
    SUBJECT,
    ModelFile,
    detector,
    needed,
    released_control,
    released_style,
)

__all__ = ["CHECKPOINTS", "PHOTOGRAPH", "WORKFLOWS", "Workflow", "files", "note", "template"]

CHECKPOINTS = {family: file.name for family, file in CHECKPOINT_FILES.items()}
_LIGHTHOUSE = "a lighthouse on a cliff above the sea"
_GIRL = "a girl with blond hair in a pink dress, on a green hill, oil painting"  # ComfyUI's example.png shows one
PIXEL_ART = {family: released_style(family, "sai-pixelart") for family in CHECKPOINT_FILES}
WATERCOLOR = released_style("sd15", "Watercolor2")
XL = {name: released_control("sdxl", name) for name in ("canny", "hed", "depth", "pose", "color")}
HED = detector("hed", "the detector of soft edges")
MIDAS = detector("dpt-hybrid-midas", "the detector of depth")
PEOPLE = detector("rtdetr-r50", "the detector of people")
JOINTS = detector("vitpose-base", "the detector of joints")
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


def style(family: str) -> dict:
    """An SC-Tuner and nothing else."""
    return with_style(picture(family, _LIGHTHOUSE), PIXEL_ART[family].name)


def subject() -> dict:
    """A subject by its word."""
    return with_style(picture("sdxl", "a photo of sbu dog in a bucket, on a beach"), SUBJECT.name)


def style_from_pictures() -> dict:
    """A style that is trained from a folder of pictures, and used at once."""
    graph = picture("sd15", _LIGHTHOUSE)
    graph["10"] = training("style", "my_pictures", "my_style", 400)
    return with_style_from(graph, ("10", 0), 1.0, 11)


def training(kind: str, folder: str, name: str, steps: int) -> dict:
    """The node that trains on the checkpoint of the graph."""
    widgets = {"folder": folder, "name": name, "kind": kind, "steps": steps, "batch": 1, "accumulate": 4}
    widgets |= {"learning_rate": 2e-4, "ratio": 1.0, "kernel": "1", "optimizer": "adamw", "precision": "auto"}
    widgets |= {"checkpointing": False, "seed": 0, "resolution": SIZES["sd15"], "caption": "", "hold_out": 0}
    widgets |= {"preview_every": max(100, steps // 20), "start_from": "none", "resume": True}
    return node("SCEditTrainOnModel", model=("1", 0), vae=("1", 2), clip=("1", 1), **widgets)


def training_on_model(kind: str, folder: str, name: str, size: int, steps: int, rate: float) -> dict:
    """The node that trains on the checkpoint of the graph."""
    return node(
        "SCEditTrainOnModel",
        model=("1", 0),
        clip=("1", 1),
        vae=("1", 2),
        folder=folder,
        name=name,
        kind=kind,
        steps=steps,
        batch=2,
        accumulate=1,
        learning_rate=rate,
        ratio=1.0,
        kernel="1",
        optimizer="adamw",
        precision="auto",
        checkpointing=size > 768,
        seed=0,
        resolution=size,
        caption="",
        hold_out=0,
        preview_every=100,
        start_from="none",
        resume=True,
    )


def style_in_the_graph(family: str) -> dict:
    """A style that is trained on the model of the graph, and used at once."""
    graph = picture(family, _LIGHTHOUSE)
    graph["10"] = training_on_model("style", "my_pictures", f"my_style_{family}", SIZES[family], 400, 2e-4)
    return with_style_from(graph, ("10", 0), 1.0, 11)


def control_in_the_graph(family: str) -> dict:
    """A control for edges that is trained on the model of the graph, and used at once."""
    graph = with_hint(picture(family, _GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph["30"] = training_on_model("canny", "my_many_pictures", f"my_canny_{family}", SIZES[family], 4000, 1e-4)
    return with_controlnet_from(graph, ("30", 1), ("21", 0), 1.0, 31)


def control_from_controlnet(family: str) -> dict:
    """A control for edges that a ControlNet teaches on the model of the graph, used at once in its place."""
    graph = with_hint(picture(family, _GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph["40"] = node("ControlNetLoader", control_net_name=CONTROLNET_CANNY[family].name)
    widgets = {"folder": "my_many_pictures", "name": f"my_small_canny_{family}", "condition": "canny", "steps": 2000}
    widgets |= {"residuals": -1, "predictions": -1, "batch": 2, "accumulate": 2, "learning_rate": 3e-4, "ratio": 1.0}
    widgets |= {"kernel": "1", "optimizer": "adamw", "precision": "auto", "checkpointing": SIZES[family] > 768}
    widgets |= {"seed": 0, "resolution": SIZES[family], "caption": "", "hold_out": 8, "preview_every": 200}
    graph["30"] = node(
        "SCEditDistillControlNet",
        model=("1", 0),
        control_net=("40", 0),
        vae=("1", 2),
        clip=("1", 1),
        **widgets | {"start_from": "none", "resume": True},
    )
    return with_controlnet_from(graph, ("30", 0), ("21", 0), 1.0, 31)


def edges_from_pictures() -> dict:
    """A control for edges that is trained from a folder of pictures, and used at once."""
    graph = with_hint(picture("sd15", _GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph["30"] = training("canny", "my_many_pictures", "my_canny", 4000)
    return with_controlnet_from(graph, ("30", 1), ("21", 0), 1.0, 31)


def canny_on_model() -> dict:
    """Edges through Apply CSC-Tuner, with block weights."""
    graph = with_hint(picture("sdxl", _GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph["32"] = node("SCEditBlockWeights", preset="flat", weights=", ".join(["1"] * 9))
    return with_control_on_model(graph, XL["canny"].name, ("21", 0), block_weights=("32", 0))


def canny_color_and_style() -> dict:
    """Edges, colours and a style at once."""
    graph = with_style(picture("sdxl", _GIRL), PIXEL_ART["sdxl"].name, 0.8)
    graph = with_hint(graph, "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph = with_control(graph, XL["canny"].name, ("21", 0), 0.9)
    graph["41"] = node("SCEditColorPalette", cell=64, image=("20", 0))
    return with_control(graph, XL["color"].name, ("41", 0), 0.6, first=42, end_percent=0.7)


def control_sdxl(condition: str, hint: str, prompt: str, **options) -> dict:
    """A released control on SDXL, whose tuner tells the condition node how its hints are made."""
    graph = with_hint(picture("sdxl", prompt), hint, **options)
    graph = with_control(graph, XL[condition].name, ("21", 0))
    graph["21"]["inputs"]["csc_tuner"] = ["30", 0]
    return graph


def completion() -> dict:
    """A picture that is continued to the right, by a control that is trained first."""
    graph = picture("sd15", _LIGHTHOUSE)
    graph["20"] = node("LoadImage", image=PHOTOGRAPH)
    graph["23"] = node("ImageScale", upscale_method="area", width=512, height=512, crop="center", image=("20", 0))
    graph["21"] = node("SCEditCompletion", left=0, top=0, right=256, bottom=0, image=("23", 0))
    graph["22"] = node("PreviewImage", "The hint", images=("21", 0))
    del graph["4"]
    graph["24"] = node("VAEEncode", pixels=("21", 1), vae=("1", 2))
    graph["25"] = node("SetLatentNoiseMask", samples=("24", 0), mask=("21", 2))
    graph["5"]["inputs"]["latent_image"] = ["25", 0]
    graph["30"] = training("completion", "my_many_pictures", "my_completion", 4000)
    return with_controlnet_from(graph, ("30", 1), ("21", 0), 1.0, 31)


def style_control_and_controlnet() -> dict:
    """A style, a CSC-Tuner for edges and a ControlNet for depth."""
    graph = with_style(picture("sdxl", _GIRL), PIXEL_ART["sdxl"].name, 0.8)
    graph = with_hint(graph, "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph = with_control(graph, XL["canny"].name, ("21", 0), 0.8)
    graph["41"] = node("SCEditDepth", detector=MIDAS.name, invert=False, image=("20", 0))
    graph["40"] = node("ControlNetLoader", control_net_name=CONTROLNET_DEPTH.name)
    return with_controlnet_from(graph, ("40", 0), ("41", 0), 0.6, 42, end_percent=0.8)


def two_controls_with_masks() -> dict:
    """Edges in the left half all the time, colours in the right half in the first 60 %."""
    graph = with_hint(picture("sdxl", _GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0, preview=False)
    graph["41"] = node("SCEditColorPalette", cell=64, image=("20", 0))
    side = SIZES["sdxl"]
    graph["50"] = node("SolidMask", "Nothing", value=0.0, width=side, height=side)
    graph["51"] = node("SolidMask", "A half", value=1.0, width=side // 2, height=side)
    half = {"operation": "add", "destination": ("50", 0), "source": ("51", 0), "y": 0}
    graph["52"] = node("MaskComposite", "Left half", x=0, **half)
    graph["53"] = node("MaskComposite", "Right half", x=side // 2, **half)
    graph = with_control_on_model(graph, XL["canny"].name, ("21", 0), mask=("52", 0))
    return with_control_on_model(graph, XL["color"].name, ("41", 0), 0.8, 42, mask=("53", 0), end_percent=0.6)


def image_to_image() -> dict:
    """A picture painted over in a style."""
    graph = with_style(picture("sd15", _GIRL), PIXEL_ART["sd15"].name)
    graph["20"] = node("LoadImage", image=PHOTOGRAPH)
    graph["23"] = node("ImageScale", upscale_method="area", width=512, height=512, crop="center", image=("20", 0))
    graph["24"] = node("VAEEncode", pixels=("23", 0), vae=("1", 2))
    del graph["4"]
    graph["5"]["inputs"] |= {"latent_image": ["24", 0], "denoise": 0.6}
    return graph


def two_pass_upscale() -> dict:
    """A small picture first, then twice as large with half of the noise, in the same style."""
    graph = with_style(picture("sd15", _LIGHTHOUSE), PIXEL_ART["sd15"].name)
    graph["60"] = node("LatentUpscaleBy", upscale_method="bislerp", scale_by=2.0, samples=("5", 0))
    graph["61"] = sampler(("11", 0), ("2", 0), ("3", 0), ("60", 0), steps=20, denoise=0.55)
    graph["6"]["inputs"]["samples"] = ["61", 0]
    return graph


def merge_and_save() -> dict:
    """Two styles as one tuner, saved as a file."""
    graph = picture("sd15", _LIGHTHOUSE)
    graph["10"] = node("SCEditLoadSCTuner", tuner_name=PIXEL_ART["sd15"].name)
    graph["12"] = node("SCEditLoadSCTuner", tuner_name=WATERCOLOR.name)
    graph["13"] = node("SCEditMergeSCTuners", tuner_1=("10", 0), weight_1=0.6, tuner_2=("12", 0), weight_2=0.4)
    graph["13"]["inputs"] |= {"weight_3": 1.0, "weight_4": 1.0}
    graph = with_style_from(graph, ("13", 0), 1.0, 11)
    graph["14"] = node("SCEditSaveTuner", tuner=("13", 0), name="pixel_watercolor", dtype="float16", overwrite=True)
    graph["14"]["inputs"] |= {"title": "Pixel art in watercolour", "note": ""}
    graph["15"] = node("SCEditTunerInfo", tuner=("13", 0))
    graph["16"] = node("PreviewAny", source=("15", 0))
    return graph


_CHOOSE_PICTURE = "Choose your picture in *Load Image*."
_SAME_SKIPS = "All of them read the same unedited skips, so their order does not matter."
_ANY_STYLE = "*Load SC-Tuner* takes every style that the help of *SCEdit Tuner Info* lists, and those that you train."
_CONTROL = "*Apply ControlNet* takes a CSC-Tuner like any other ControlNet, with strength, range and chaining. "
_TRAIN = (
    "Put pictures into `input/{folder}`, each with a text file of the same name that says what is on it. *Run* trains "
    "the tuner first ({time}) and then draws; the next *Run* uses it at once. It needs nothing but ComfyUI. "
)
_IN_GRAPH = (
    "Put pictures into `input/{folder}`, each with a text file of the same name that says what is on it. *Run* trains "
    "on the checkpoint of the graph, with nothing to install, and then draws; the next *Run* uses the tuner at once. "
)
_DISTIL = (
    "Put pictures of any kind into `input/my_many_pictures`, a hundred or more; captions in text files of the same "
    "name help, but may be missing. *Run* has the ControlNet teach a small tuner on the checkpoint of the graph (2000 "
    "steps), and then draws with that; the next *Run* uses it at once, and needs the ControlNet no more. For another "
    "ControlNet connect the images of its own preprocessor to `hints`, and the same pictures through *VAE Encode* to "
    "`latents`. "
)
_MANY = "A control needs thousands of pictures, and nobody has released one like this for SD 1.5. "

# Internal name: template, from easy to rich.
WORKFLOWS = {
    "sc_train_sd15": Workflow(
        style_from_pictures,
        "sd15",
        "SCEdit 01 Style from your pictures (SD 1.5)",
        _TRAIN.format(folder="my_pictures", time="400 steps, minutes on a GPU") + "Twenty pictures are enough.",
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
        "The tuner was trained on one dog, which the words *sbu dog* call.",
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
        lambda: control_sdxl("canny", "SCEditCanny", _GIRL, low=100.0, high=200.0, blur=0.0),
        "sdxl",
        "SCEdit 09 Follow edges (SDXL)",
        _CONTROL + _CHOOSE_PICTURE,
        (XL["canny"],),
    ),
    "csc_color_sdxl": Workflow(
        lambda: control_sdxl("color", "SCEditColorPalette", _GIRL, cell=64),
        "sdxl",
        "SCEdit 10 Follow colours (SDXL)",
        f"The picture follows the colours of the squares and is free in everything else. {_CHOOSE_PICTURE}",
        (XL["color"],),
    ),
    "csc_soft_edge_sdxl": Workflow(
        lambda: control_sdxl("hed", "SCEditSoftEdge", _GIRL, polarity="auto", safe=False, scribble=False),
        "sdxl",
        "SCEdit 11 Follow soft edges (SDXL)",
        f"The released control wants dark edges on light; *auto* makes them so. {_CHOOSE_PICTURE}",
        (XL["hed"], HED),
    ),
    "csc_depth_sdxl": Workflow(
        lambda: control_sdxl("depth", "SCEditDepth", _GIRL, detector=MIDAS.name, invert=False),
        "sdxl",
        "SCEdit 12 Follow depth (SDXL)",
        f"Near is light. {_CHOOSE_PICTURE}",
        (XL["depth"], MIDAS),
    ),
    "csc_pose_sdxl": Workflow(
        lambda: control_sdxl("pose", "SCEditPose", _GIRL, person_detector=PEOPLE.name, detector=JOINTS.name, **_POSE),
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
        _TRAIN.format(folder="my_many_pictures", time="4000 steps, hours on a GPU") + _MANY + _CHOOSE_PICTURE,
    ),
    "csc_completion_sd15": Workflow(
        completion,
        "sd15",
        "SCEdit 19 Train a control that continues pictures (SD 1.5)",
        "*SCEdit Completion* puts the picture on a larger canvas; what is black in the hint is painted. To fill a "
        "hole, connect a mask and set all margins to 0. "
        + _TRAIN.format(folder="my_many_pictures", time="4000 steps, hours on a GPU")
        + _MANY
        + _CHOOSE_PICTURE,
    ),
    "sc_train_in_graph_sdxl": Workflow(
        lambda: style_in_the_graph("sdxl"),
        "sdxl",
        "SCEdit 20 Train a style in the graph (SDXL)",
        _IN_GRAPH.format(folder="my_pictures") + "Twenty pictures are enough.",
    ),
    "csc_train_in_graph_sdxl": Workflow(
        lambda: control_in_the_graph("sdxl"),
        "sdxl",
        "SCEdit 21 Train a control in the graph (SDXL)",
        _IN_GRAPH.format(folder="my_many_pictures") + "A control needs thousands of pictures.",
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
    where = "**Files, in the folder of ComfyUI** (keep the folders of the release)"
    return f"### {workflow.name}\n\n{workflow.text}\n\n{where}\n\n{needed(files(stem))}\n\n{_THUMBNAIL}"


_THUMBNAIL = "The picture in the list of templates was drawn by a small test model, not by these files."
