"""Writes workflows/*.jpg, the pictures in the list of templates: a half before, a half after, on the embedded base.

python tests/browser/make_thumbnails.py HOST LANTERN [STEM ...]
    HOST: a ComfyUI checkout whose server runs here.  LANTERN: the style that `make demo` trains,
    demo_output/lantern.safetensors.

The graphs are those of the templates in small: the same nodes of the pack, on the embedded base.  A hint whose detector
is not in DETECTORS (a folder, by default models/scedit_annotators of HOST) is named in words instead.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host"), str(PACK)]

import graphs  # noqa: E402
import help_graphs  # noqa: E402
from demo_files import place_files  # noqa: E402
from graph_parts import demo_picture, node, with_control, with_control_on_model, with_hint, with_style  # noqa: E402
from host_server import Server, error_of  # noqa: E402
from make_help_pictures import place_styles  # noqa: E402

SIDE = 460  # twice what the page shows
CAT, MUSHROOM = "a purple cat in the middle, on a beach", "a green mushroom in the middle, in a room"
STAR, HOUSE = "a red star in the middle, in a meadow", "a blue house in the middle, in a desert"
EDGES = {"low": 100.0, "high": 200.0, "blur": 0.0}
Pair = tuple[dict, dict]


def style(prompt: str, strength: float = 1.0) -> Pair:
    """Without and with the style."""
    return demo_picture(prompt), with_style(demo_picture(prompt), help_graphs.LANTERN, strength)


def painted_over() -> Pair:
    """A picture, and the same in the style."""
    before = {
        "20": node("LoadImage", image=help_graphs.SCENE),
        "7": node("SaveImage", filename_prefix="SCEdit", images=("20", 0)),
    }
    after = with_style(demo_picture("a yellow cat in the middle, on a beach"), help_graphs.LANTERN)
    after["20"] = node("LoadImage", image=help_graphs.SCENE)
    after["23"] = node("ImageScale", upscale_method="area", width=128, height=128, crop="center", image=("20", 0))
    after["24"] = node("VAEEncode", pixels=("23", 0), vae=("8", 0))
    del after["4"]
    after["5"]["inputs"] |= {"latent_image": ["24", 0], "denoise": 0.8}
    return before, after


def hint_of(class_type: str, picture: str, output: int = 0, **options) -> dict:
    """A condition image, saved."""
    return {
        "20": node("LoadImage", image=picture),
        "21": node(class_type, image=("20", 0), **options),
        "7": node("SaveImage", filename_prefix="SCEdit", images=("21", output)),
    }


def edges(prompt: str, styled: float = 0.0, on_model: bool = False) -> Pair:
    """Edges, and the picture that follows them."""
    after = with_hint(demo_picture(prompt), "SCEditCanny", help_graphs.SCENE, False, **EDGES)
    apply = with_control_on_model if on_model else with_control
    after = apply(after, help_graphs.CANNY, ("21", 0))
    if styled:
        after = with_style(after, help_graphs.LANTERN, styled)
    return hint_of("SCEditCanny", help_graphs.SCENE, **EDGES), after


def hint(class_type: str, **options) -> Pair:
    """A photograph, and the hint that is made of it."""
    photograph = {
        "20": node("LoadImage", image=help_graphs.PHOTOGRAPH),
        "7": node("SaveImage", filename_prefix="SCEdit", images=("20", 0)),
    }
    return photograph, hint_of(class_type, help_graphs.PHOTOGRAPH, **options)


PICTURES: dict[str, Callable[[], Pair]] = {
    "sc_train_sd15": lambda: style(CAT),
    "sc_tuner_sd15": lambda: style(MUSHROOM),
    "sc_tuner_sd21": lambda: style(STAR),
    "sc_tuner_sdxl": lambda: style(HOUSE),
    "sc_subject_sdxl": lambda: style("a yellow fish in the middle, on a beach"),
    "sc_image_to_image_sd15": painted_over,
    "sc_two_pass_upscale_sd15": lambda: style("a white heart in the middle, in a meadow"),
    "merge_and_save_sd15": lambda: style(MUSHROOM, 0.5),
    "csc_canny_sdxl": lambda: edges(CAT),
    "csc_color_sdxl": lambda: hint("SCEditColorPalette", cell=64),
    "csc_soft_edge_sdxl": lambda: hint("SCEditSoftEdge", polarity="auto", safe=False, scribble=False),
    "csc_depth_sdxl": lambda: hint("SCEditDepth", detector=graphs.MIDAS.name, invert=False),
    "csc_pose_sdxl": lambda: hint(
        "SCEditPose",
        person_detector=graphs.PEOPLE.name,
        detector=graphs.JOINTS.name,
        person_threshold=0.3,
        joint_threshold=0.3,
        hands=True,
    ),
    "csc_canny_on_model_sdxl": lambda: edges("a green cat in the middle, in a desert", on_model=True),
    "csc_canny_color_and_style_sdxl": lambda: edges(CAT, 0.8),
    "csc_style_and_controlnet_sdxl": lambda: edges("a red cat in the middle, in a meadow", 0.6),
    "csc_two_controls_with_masks_sdxl": lambda: edges("a blue cat in the middle, in a room"),
    "sc_train_in_graph_sdxl": lambda: style(HOUSE),
    "csc_train_in_graph_sdxl": lambda: edges("a red cat in the middle, in a meadow"),
    "csc_distil_canny_sd15": lambda: edges("a white cat in the middle, in a desert"),
    "csc_distil_canny_sdxl": lambda: edges("a yellow cat in the middle, in a meadow"),
    "csc_train_canny_sd15": lambda: edges("a green cat in the middle, on a beach"),
    "csc_completion_sd15": lambda: hint("SCEditCompletion", left=0, top=0, right=256, bottom=0),
}


def drawn(server: Server, graph: dict) -> Image.Image | None:
    """The picture that a graph saves; None where a detector is missing."""
    prompt_id, answer = server.queue(graph)
    if prompt_id is None:
        raise RuntimeError(answer)
    entry = server.wait(prompt_id)
    if entry["status"]["status_str"] != "success":
        if "scedit_annotators" in error_of(entry):
            return None
        raise RuntimeError(error_of(entry))
    saved = {key: value for key, value in entry["outputs"].items() if graph[key]["class_type"] == "SaveImage"}
    return Image.open(io.BytesIO(server.images({"outputs": saved})[-1])).convert("RGB")


def in_words(stem: str) -> Image.Image:
    """What a missing detector would draw, as words."""
    picture = Image.new("RGB", (SIDE, SIDE), "#15151f")
    text = graphs.WORKFLOWS[stem].name.split(" ", 2)[2].split(" (")[0].replace("Follow ", "").replace("a ", "")
    font = ImageFont.load_default(SIDE // 9)
    ImageDraw.Draw(picture).text(
        (SIDE * 3 // 4, SIDE // 2), text.replace(" ", "\n"), "#fff", font, "mm", align="center"
    )
    return picture


def halves(before: Image.Image, after: Image.Image) -> Image.Image:
    """The left half of one and the right half of the other, with a line between."""
    before, after = (square(each) for each in (before, after))
    after.paste(before.crop((0, 0, SIDE // 2, SIDE)), (0, 0))
    ImageDraw.Draw(after).line([(SIDE // 2, 0), (SIDE // 2, SIDE)], "white", 3)
    return after


def square(picture: Image.Image) -> Image.Image:
    """Fitted into the square, on black."""
    scale = SIDE / max(picture.size)
    small = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (SIDE, SIDE))
    whole.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return whole


def main(host: Path, lantern: Path, stems: Iterable[str]) -> None:
    """Make them."""
    detectors = Path(os.environ.get("DETECTORS", host / "models" / "scedit_annotators"))
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as folder:
        base = Path(folder)
        place_files(base)
        if lantern.is_file():
            place_styles(base, lantern)
        if detectors.is_dir():
            (base / "models" / "scedit_annotators").symlink_to(detectors.resolve())
        with Server(host, PACK, base, [PACK / "tests" / "host" / "demo_nodes"]) as server:
            for stem in stems:
                before, after = (drawn(server, graph) for graph in PICTURES[stem]())
                path = graphs.template(stem).with_suffix(".jpg")
                halves(before, after or in_words(stem)).save(path, quality=82, optimize=True)
                print(path.name, "complete" if after else "in words: a detector is missing")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or graphs.WORKFLOWS)
