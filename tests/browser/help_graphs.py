"""The graphs on the pictures of the help pages and of the README: on the embedded base, so that they end in a picture.

A graph's entry in PICTURES says which nodes are folded up, and which are to be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graph_parts import (
    demo_picture,
    node,
    with_control,
    with_control_on_model,
    with_hint,
    with_style,
    with_style_from,
)

SCENE, PHOTOGRAPH = "scene.png", "photograph.png"
CANNY, LANTERN, SHALLOW = "canny.safetensors", "lantern.safetensors", "lantern_shallow.safetensors"
# Not to be had here, and not run: an empty file is enough to be chosen.
SOFT_EDGE, DEPTH, POSE = "soft_edge.safetensors", "depth.safetensors", "pose.safetensors"
SEGMENTATION = "segmentation.safetensors"
BASE = "base.safetensors"  # the configuration of the training names the embedded base instead
ONLY_SHOWN = (SOFT_EDGE, DEPTH, POSE, SEGMENTATION)
_EDGES = {"low": 100.0, "high": 200.0, "blur": 0.0}
_PROMPT = "a green mushroom in the middle, in a room"
_CAT = "a purple cat in the middle, on a beach"
_FOLDED = ("1", "2", "3", "4", "6", "8", "19")


@dataclass(frozen=True)
class Picture:
    """One picture of the page.

    graph: makes what is on it.  folded: ids of nodes that are shown as their title alone.
    runs:  whether it is run first; a detector that is not on this machine cannot be.
    steps: for a training, which is stopped after the picture: how many steps its panel has to show.
    stack: ids of the nodes that the help is about, one below the other and nothing else; () for the whole graph.
    """

    graph: Callable[[], dict]
    folded: tuple[str, ...] = _FOLDED
    runs: bool = True
    steps: int = 0
    stack: tuple[str, ...] = ()


def sc_tuner() -> dict:
    """A style on the model."""
    return with_style(demo_picture(_PROMPT), LANTERN)


def csc_tuner() -> dict:
    """Edges through Apply ControlNet."""
    graph = with_hint(demo_picture(_CAT), "SCEditCanny", SCENE, False, **_EDGES)
    return with_control(graph, CANNY, ("21", 0))


def csc_on_model() -> dict:
    """Edges through Apply CSC-Tuner."""
    graph = with_hint(demo_picture(_CAT), "SCEditCanny", SCENE, False, **_EDGES)
    return with_control_on_model(graph, CANNY, ("21", 0))


def style_and_control() -> dict:
    """A style and edges at once."""
    return with_style(csc_tuner(), LANTERN)


def block_weights() -> dict:
    """A style on the shallow half of the blocks."""
    graph = demo_picture(_PROMPT)
    graph["12"] = node("SCEditBlockWeights", preset="shallow only", weights=", ".join(["1"] * 9))
    return with_style(graph, LANTERN, block_weights=("12", 0))


def tuner_info() -> dict:
    """What a file is."""
    return {
        "30": node("SCEditLoadCSCTuner", tuner_name=CANNY),
        "15": node("SCEditTunerInfo", tuner=("30", 0)),
        "16": node("PreviewAny", source=("15", 0)),
    }


def merge_and_save() -> dict:
    """A style at half strength in the deep blocks, saved as a file."""
    graph = demo_picture(_PROMPT)
    graph["10"] = node("SCEditLoadSCTuner", tuner_name=LANTERN)
    graph["12"] = node("SCEditLoadSCTuner", tuner_name=SHALLOW)
    graph["13"] = node("SCEditMergeSCTuners", tuner_1=("10", 0), weight_1=0.5, tuner_2=("12", 0), weight_2=0.5)
    graph["13"]["inputs"] |= {"weight_3": 1.0, "weight_4": 1.0}
    graph["14"] = node("SCEditSaveTuner", tuner=("13", 0), name="lantern_soft", dtype="float16", overwrite=True)
    graph["14"]["inputs"] |= {"title": "Lantern, soft shapes", "note": ""}
    return with_style_from(graph, ("13", 0), 1.0, 11)


def condition(class_type: str, **options) -> dict:
    """A condition image of a photograph, shown on the node."""
    return {
        "20": node("LoadImage", image=PHOTOGRAPH),
        "21": node(class_type, image=("20", 0), **options),
        "22": node("PreviewImage", images=("21", 0)),
    }


def completion() -> dict:
    """A photograph on a larger canvas."""
    graph = condition("SCEditCompletion", left=0, top=0, right=256, bottom=0)
    return graph | {"23": node("MaskPreview", mask=("21", 2))}


def detected(class_type: str, tuner: str, **options) -> dict:
    """A condition image of a photograph by a detector, on its way to a control."""
    graph = with_hint(demo_picture("a portrait of an astronaut"), class_type, PHOTOGRAPH, False, **options)
    graph = with_control(graph, tuner, ("21", 0))
    return {name: graph[name] for name in ("20", "21", "30", "31", "2", "3")}


def train_on_model() -> dict:
    """A style that is being trained on the model of the graph, and what comes after it."""
    graph = demo_picture("a yellow star in the middle, in a meadow")
    graph["18"] = node("SCEditDemoCLIP")
    graph["10"] = node(
        "SCEditTrainOnModel",
        model=("1", 0),
        vae=("8", 0),
        clip=("18", 0),
        folder="lanterns",
        name="glowing",
        kind="style",
        steps=400,
        batch=1,  # so that the picture is there within minutes on a CPU
        accumulate=1,
        learning_rate=2e-3,
        ratio=4.0,
        kernel="1",
        optimizer="adamw",
        precision="auto",
        checkpointing=False,
        seed=0,
        resolution=128,
        caption="",
        hold_out=0,
        preview_every=60,
        start_from="none",
        resume=True,
    )
    return with_style_from(graph, ("10", 0), 1.0, 11)


def train() -> dict:
    """A style that is being trained on the embedded base, and what comes after it."""
    widgets = {"ckpt_name": BASE, "folder": "lanterns", "name": "my_lanterns", "kind": "style", "preset": "fast"}
    widgets |= {"steps": 600, "resolution": 128, "caption": "", "low_memory": False, "resume": False}
    graph = demo_picture(_PROMPT)
    graph["10"] = node("SCEditTrainTuner", config_file="lanterns.yaml", **widgets)
    return with_style_from(graph, ("10", 0), 1.0, 11)


# File stem: picture.
PICTURES = {
    "sc_tuner": Picture(sc_tuner, stack=("10", "11", "7")),
    "csc_tuner": Picture(csc_tuner, stack=("21", "30", "31", "7")),
    "csc_on_model": Picture(csc_on_model, stack=("30", "31", "7")),
    "style_and_control": Picture(style_and_control),
    "block_weights": Picture(block_weights, stack=("12", "11", "7")),
    "tuner_info": Picture(tuner_info, (), stack=("30", "15", "16")),
    "merge_and_save": Picture(merge_and_save, stack=("13", "14")),
    "canny": Picture(lambda: condition("SCEditCanny", **_EDGES), (), stack=("20", "21")),
    "color_palette": Picture(lambda: condition("SCEditColorPalette", cell=64), (), stack=("20", "21")),
    "completion": Picture(completion, (), stack=("20", "21")),
    "soft_edge": Picture(
        lambda: detected("SCEditSoftEdge", SOFT_EDGE, polarity="auto", safe=False, scribble=False),
        runs=False,
        stack=("20", "21", "30"),
    ),
    "depth": Picture(
        lambda: detected("SCEditDepth", DEPTH, detector="dpt-hybrid-midas", invert=False),
        runs=False,
        stack=("20", "21", "30"),
    ),
    "pose": Picture(
        lambda: detected(
            "SCEditPose",
            POSE,
            person_detector="rtdetr-r50",
            detector="vitpose-base",
            person_threshold=0.3,
            joint_threshold=0.3,
            hands=True,
        ),
        runs=False,
        stack=("20", "21", "30"),
    ),
    "segmentation": Picture(
        lambda: detected("SCEditSegmentation", SEGMENTATION, detector="upernet-convnext-small"),
        runs=False,
        stack=("20", "21", "30"),
    ),
    "train": Picture(train, steps=30, stack=("10",)),
    "train_on_model": Picture(train_on_model, steps=120, stack=("10",)),
}
