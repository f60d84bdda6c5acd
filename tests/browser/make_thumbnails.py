"""Writes workflows/*.jpg, the pictures in the list of templates: a half before, a half after, on the embedded base.

python tests/browser/make_thumbnails.py HOST LANTERN CONTROLS [STEM ...]
    HOST: a ComfyUI checkout whose server runs here.  LANTERN: the style that `make demo` trains,
    demo_output/lantern.safetensors.  CONTROLS: the folder that train_thumbnail_controls.py fills.

The graphs are those of the templates in small: the same nodes of the pack, on the embedded base.  No detector is
needed: soft edges and depth are drawn (train_thumbnail_controls.py), and a pose is drawn by its node from joints that
were marked by hand on a photograph, since the embedded base knows no people.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import skimage.data
from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK / "tests" / "host"), str(PACK)]

import graphs  # noqa: E402
import help_graphs  # noqa: E402
from demo_files import place_files  # noqa: E402
from graph_parts import demo_picture, node, with_control, with_control_on_model, with_hint, with_style  # noqa: E402
from host_server import Server, error_of  # noqa: E402
from make_help_pictures import place_styles  # noqa: E402
from template_graphs import masks_of_halves  # noqa: E402
from train_thumbnail_controls import depth, soft_edges  # noqa: E402

from training.demo.painting import draw  # noqa: E402
from training.demo.scenes import Item, Scene  # noqa: E402

SIDE = 460  # twice what the page shows
CAT, MUSHROOM = "a purple cat in the middle, on a beach", "a green mushroom in the middle, in a room"
STAR, HOUSE = "a red star in the middle, in a meadow", "a blue house in the middle, in a desert"
EDGES = {"low": 100.0, "high": 200.0, "blur": 0.0}
COLOURS = "color.safetensors"
KEPT = 64  # of the 128 columns of the picture that is continued
MUSHROOM_SCENE = Scene((Item("mushroom", "blue", 0.5, 0.52, 0.33, -4),), "room", "")
HOUSE_SCENE = Scene((Item("house", "red", 0.5, 0.55, 0.33, 3),), "desert", "")
FISH_SCENE = Scene((Item("fish", "blue", 0.5, 0.52, 0.32),), "beach", "")
PHOTOGRAPHER = "photographer.png"  # 512 pixels a side
PART = 40  # where the part of it begins that is shown
# OpenPose's 18 points of him: x, y, sure or not seen.
_POINTS = """250 160 1  160 165 1  105 175 1  95 300 1  190 230 1  190 165 1  255 300 1  300 225 1  65 400 1
    0 0 0  0 0 0  120 400 1  0 0 0  0 0 0  228 140 1  0 0 0  188 140 1  0 0 0"""
_PERSON = {"pose_keypoints_2d": [int(each) for each in _POINTS.split()]}
JOINTS = [{"people": [_PERSON], "canvas_width": 512, "canvas_height": 512}]
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


def colours(prompt: str) -> Pair:
    """A mosaic, and the picture that follows it."""
    after = with_hint(demo_picture(prompt), "SCEditColorPalette", help_graphs.SCENE, False, cell=8)
    return hint_of("SCEditColorPalette", help_graphs.SCENE, cell=8), with_control(after, COLOURS, ("21", 0))


def edges_and_colours(prompt: str, styled: float) -> Pair:
    """Edges, and the picture that follows them and a mosaic, in the style."""
    before, after = edges(prompt, styled)
    after["41"] = node("SCEditColorPalette", cell=8, image=("20", 0))
    return before, with_control(after, COLOURS, ("41", 0), 0.6, first=42, end_percent=0.7)


def each_in_its_half(picture: str, prompt: str) -> Pair:
    """Edges beside a mosaic, and the picture that follows each in its half."""
    after = with_hint(demo_picture(prompt), "SCEditCanny", picture, False, **EDGES) | masks_of_halves(128)
    after["41"] = node("SCEditColorPalette", cell=8, image=("20", 0))
    before = {name: after[name] for name in ("20", "21", "41", "50", "51", "52", "53")}
    both = {"destination": ("21", 0), "source": ("41", 0), "mask": ("53", 0)}
    before["8"] = node("ImageCompositeMasked", x=0, y=0, resize_source=False, **both)
    before["7"] = node("SaveImage", filename_prefix="SCEdit", images=("8", 0))
    after = with_control_on_model(after, help_graphs.CANNY, ("21", 0), mask=("52", 0))
    return before, with_control_on_model(after, COLOURS, ("41", 0), 0.8, 42, mask=("53", 0))


def drawn_hint(name: str, prompt: str) -> Pair:
    """A hint that is a picture already, and the picture that follows it."""
    after = demo_picture(prompt)
    after["20"] = node("LoadImage", image=f"{name}.png")
    return loaded(f"{name}.png"), with_control(after, f"{name}.safetensors", ("20", 0))


def continued(picture: str, prompt: str) -> Pair:
    """The left of a picture, and the same continued to the right."""
    after = demo_picture(prompt)
    after["20"] = node("LoadImage", image=picture)
    after["23"] = node("ImageCrop", width=KEPT, height=128, x=0, y=0, image=("20", 0))
    after["21"] = node("SCEditCompletion", left=0, top=0, right=128 - KEPT, bottom=0, image=("23", 0))
    before = {name: after[name] for name in ("20", "23", "21")}
    before["7"] = node("SaveImage", filename_prefix="SCEdit", images=("21", 0))
    del after["4"]
    after["24"] = node("VAEEncode", pixels=("21", 1), vae=("8", 0))
    after["25"] = node("SetLatentNoiseMask", samples=("24", 0), mask=("21", 2))
    after["5"]["inputs"]["latent_image"] = ["25", 0]
    return before, with_control(after, "completion.safetensors", ("21", 0))


def pose() -> Pair:
    """A photograph, and what the node draws of the joints on it."""
    after = loaded(PHOTOGRAPHER)
    after["22"] = node("SCEditDemoKeypoints", json=json.dumps(JOINTS))
    widgets = {"person_detector": graphs.PEOPLE.name, "detector": graphs.JOINTS.name, "hands": True}
    widgets |= {"person_threshold": 0.3, "joint_threshold": 0.3}
    after["21"] = node("SCEditPose", image=("20", 0), keypoints=("22", 0), **widgets)
    after["7"]["inputs"]["images"] = ["21", 0]
    return loaded(PHOTOGRAPHER), after


def loaded(picture: str) -> dict:
    """A picture as it is, saved."""
    return {
        "20": node("LoadImage", image=picture),
        "7": node("SaveImage", filename_prefix="SCEdit", images=("20", 0)),
    }


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
    "csc_color_sdxl": lambda: colours("a yellow cat in the middle"),
    "csc_soft_edge_sdxl": lambda: drawn_hint("soft_edge", "a red mushroom in the middle, in a meadow"),
    "csc_depth_sdxl": lambda: drawn_hint("depth", "a purple house in the middle, in a meadow"),
    "csc_pose_sdxl": pose,
    "csc_canny_on_model_sdxl": lambda: edges("a green cat in the middle, in a desert", on_model=True),
    "csc_canny_color_and_style_sdxl": lambda: edges_and_colours("a yellow cat, on a beach", 0.8),
    "csc_style_and_controlnet_sdxl": lambda: edges("a red cat in the middle, in a meadow", 0.6),
    "csc_two_controls_with_masks_sdxl": lambda: each_in_its_half("fish.png", "a blue fish in the middle, on a beach"),
    "sc_train_in_graph_sdxl": lambda: style(HOUSE),
    "csc_train_in_graph_sdxl": lambda: edges("a red cat in the middle, in a meadow"),
    "csc_distil_canny_sd15": lambda: edges("a white cat in the middle, in a desert"),
    "csc_distil_canny_sdxl": lambda: edges("a yellow cat in the middle, in a meadow"),
    "csc_train_canny_sd15": lambda: edges("a green cat in the middle, on a beach"),
    "csc_completion_sd15": lambda: continued("fish.png", "a blue fish in the middle, on a beach"),
}


def drawn(server: Server, graph: dict) -> Image.Image:
    """The picture that a graph saves."""
    prompt_id, answer = server.queue(graph)
    if prompt_id is None:
        raise RuntimeError(answer)
    entry = server.wait(prompt_id)
    if entry["status"]["status_str"] != "success":
        raise RuntimeError(error_of(entry))
    saved = {key: value for key, value in entry["outputs"].items() if graph[key]["class_type"] == "SaveImage"}
    return Image.open(io.BytesIO(server.images({"outputs": saved})[-1])).convert("RGB")


def halves(before: Image.Image, after: Image.Image) -> Image.Image:
    """The left half of one and the right half of the other, with a line between."""
    after.paste(before.crop((0, 0, SIDE // 2, SIDE)), (0, 0))
    ImageDraw.Draw(after).line([(SIDE // 2, 0), (SIDE // 2, SIDE)], "white", 3)
    return after


def square(picture: Image.Image) -> Image.Image:
    """Enlarged to the size of the thumbnail."""
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def over(before: Image.Image, after: Image.Image) -> Image.Image:
    """The upper half of one above the lower half of the other."""
    turned = halves(*(each.transpose(Image.Transpose.ROTATE_90) for each in (before, after)))
    return turned.transpose(Image.Transpose.ROTATE_270)


def beside(before: Image.Image, after: Image.Image) -> Image.Image:
    """The same part of both, side by side."""
    whole = Image.new("RGB", (SIDE, SIDE))
    for place, each in enumerate((before, after)):
        whole.paste(each.crop((PART, 0, PART + SIDE // 2, SIDE)), (place * SIDE // 2, 0))
    ImageDraw.Draw(whole).line([(SIDE // 2, 0), (SIDE // 2, SIDE)], "white", 3)
    return whole


JOINED = {"csc_pose_sdxl": beside, "csc_completion_sd15": over, "csc_two_controls_with_masks_sdxl": over}


def place_hints(base: Path, controls: Path) -> None:
    """The controls, the hints that are drawn, and a photograph of somebody."""
    for file in controls.glob("*.safetensors"):
        shutil.copy(file, base / "models" / "scedit")
    drawings = {"soft_edge": soft_edges(draw(MUSHROOM_SCENE)), "depth": depth(HOUSE_SCENE), "fish": draw(FISH_SCENE)}
    for name, drawing in drawings.items():
        Image.fromarray(drawing).save(base / "input" / f"{name}.png")
    Image.fromarray(skimage.data.camera()).save(base / "input" / PHOTOGRAPHER)


def main(host: Path, lantern: Path, controls: Path, stems: Iterable[str]) -> None:
    """Make them."""
    with tempfile.TemporaryDirectory(prefix="ComfyUI-") as folder:
        base = Path(folder)
        place_files(base)
        if lantern.is_file():
            place_styles(base, lantern)
        place_hints(base, controls)
        with Server(host, PACK, base, [PACK / "tests" / "host" / "demo_nodes"]) as server:
            for stem in stems:
                before, after = (drawn(server, graph) for graph in PICTURES[stem]())
                path = graphs.template(stem).with_suffix(".jpg")
                JOINED.get(stem, halves)(square(before), square(after)).save(path, quality=82, optimize=True)
                print(path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:] or graphs.WORKFLOWS)
