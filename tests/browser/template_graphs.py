"""The graphs of the templates, in the host's API form; graphs.py says what each is called and needs."""

from __future__ import annotations

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
from model_files import CONTROLNET_CANNY, CONTROLNET_DEPTH, MIDAS, PIXEL_ART, SUBJECT, WATERCOLOR, XL

LIGHTHOUSE = "a lighthouse on a cliff above the sea"
GIRL = "a girl with blond hair in a pink dress, on a green hill, oil painting"  # ComfyUI's example.png shows one
_TWO = {"batch": 2, "accumulate": 1, "preview_every": 100}


def style(family: str) -> dict:
    """An SC-Tuner and nothing else."""
    return with_style(picture(family, LIGHTHOUSE), PIXEL_ART[family].name)


def subject() -> dict:
    """A subject by its word."""
    return with_style(picture("sdxl", "a photo of sbu dog in a bucket, on a beach"), SUBJECT.name)


def style_from_pictures() -> dict:
    """A style that is trained from a folder of pictures, and used at once."""
    graph = picture("sd15", LIGHTHOUSE)
    graph["10"] = training("style", "my_pictures", "my_style", 400)
    return with_style_from(graph, ("10", 0), 1.0, 11)


def training(kind: str, folder: str, name: str, steps: int, family: str = "sd15", **changed) -> dict:
    """The node that trains on the checkpoint of the graph; `changed`: widgets that are not as for SD 1.5."""
    widgets = {"folder": folder, "name": name, "kind": kind, "steps": steps, "batch": 1, "accumulate": 4}
    widgets |= {"learning_rate": 2e-4, "ratio": 1.0, "kernel": "1", "optimizer": "adamw", "precision": "auto"}
    widgets |= {"checkpointing": SIZES[family] > 768, "seed": 0, "resolution": SIZES[family], "caption": ""}
    widgets |= {"hold_out": 0, "preview_every": max(100, steps // 20), "start_from": "none", "resume": True}
    return node("SCEditTrainOnModel", model=("1", 0), vae=("1", 2), clip=("1", 1), **widgets | changed)


def style_in_the_graph(family: str) -> dict:
    """A style that is trained on the model of the graph, and used at once."""
    graph = picture(family, LIGHTHOUSE)
    graph["10"] = training("style", "my_pictures", f"my_style_{family}", 400, family, **_TWO)
    return with_style_from(graph, ("10", 0), 1.0, 11)


def control_in_the_graph(family: str) -> dict:
    """A control for edges that is trained on the model of the graph, and used at once."""
    graph = with_hint(picture(family, GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph["30"] = training("canny", "my_many_pictures", f"my_canny_{family}", 4000, family, learning_rate=1e-4, **_TWO)
    return with_controlnet_from(graph, ("30", 1), ("21", 0), 1.0, 31)


def control_from_controlnet(family: str) -> dict:
    """A control for edges that a ControlNet teaches on the model of the graph, used at once in its place."""
    graph = with_hint(picture(family, GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0)
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
    graph = with_hint(picture("sd15", GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph["30"] = training("canny", "my_many_pictures", "my_canny", 4000)
    return with_controlnet_from(graph, ("30", 1), ("21", 0), 1.0, 31)


def canny_on_model() -> dict:
    """Edges through Apply CSC-Tuner, with block weights."""
    graph = with_hint(picture("sdxl", GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph["32"] = node("SCEditBlockWeights", preset="flat", weights=", ".join(["1"] * 9))
    return with_control_on_model(graph, XL["canny"].name, ("21", 0), block_weights=("32", 0))


def canny_color_and_style() -> dict:
    """Edges, colours and a style at once."""
    graph = with_style(picture("sdxl", GIRL), PIXEL_ART["sdxl"].name, 0.8)
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
    graph = picture("sd15", LIGHTHOUSE)
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
    graph = with_style(picture("sdxl", GIRL), PIXEL_ART["sdxl"].name, 0.8)
    graph = with_hint(graph, "SCEditCanny", low=100.0, high=200.0, blur=0.0)
    graph = with_control(graph, XL["canny"].name, ("21", 0), 0.8)
    graph["41"] = node("SCEditDepth", detector=MIDAS.name, invert=False, image=("20", 0))
    graph["40"] = node("ControlNetLoader", control_net_name=CONTROLNET_DEPTH.name)
    return with_controlnet_from(graph, ("40", 0), ("41", 0), 0.6, 42, end_percent=0.8)


def two_controls_with_masks() -> dict:
    """Edges in the left half all the time, colours in the right half in the first 60 %."""
    graph = with_hint(picture("sdxl", GIRL), "SCEditCanny", low=100.0, high=200.0, blur=0.0, preview=False)
    graph["41"] = node("SCEditColorPalette", cell=64, image=("20", 0))
    graph |= masks_of_halves(SIZES["sdxl"])
    graph = with_control_on_model(graph, XL["canny"].name, ("21", 0), mask=("52", 0))
    return with_control_on_model(graph, XL["color"].name, ("41", 0), 0.8, 42, mask=("53", 0), end_percent=0.6)


def masks_of_halves(side: int) -> dict:
    """Nodes 50 to 53: the left half as node 52, the right one as node 53."""
    half = {"operation": "add", "destination": ("50", 0), "source": ("51", 0), "y": 0}
    return {
        "50": node("SolidMask", "Nothing", value=0.0, width=side, height=side),
        "51": node("SolidMask", "A half", value=1.0, width=side // 2, height=side),
        "52": node("MaskComposite", "Left half", x=0, **half),
        "53": node("MaskComposite", "Right half", x=side // 2, **half),
    }


def image_to_image() -> dict:
    """A picture painted over in a style."""
    graph = with_style(picture("sd15", GIRL), PIXEL_ART["sd15"].name)
    graph["20"] = node("LoadImage", image=PHOTOGRAPH)
    graph["23"] = node("ImageScale", upscale_method="area", width=512, height=512, crop="center", image=("20", 0))
    graph["24"] = node("VAEEncode", pixels=("23", 0), vae=("1", 2))
    del graph["4"]
    graph["5"]["inputs"] |= {"latent_image": ["24", 0], "denoise": 0.6}
    return graph


def two_pass_upscale() -> dict:
    """A small picture first, then twice as large with half of the noise, in the same style."""
    graph = with_style(picture("sd15", LIGHTHOUSE), PIXEL_ART["sd15"].name)
    graph["60"] = node("LatentUpscaleBy", upscale_method="bislerp", scale_by=2.0, samples=("5", 0))
    graph["61"] = sampler(("11", 0), ("2", 0), ("3", 0), ("60", 0), steps=20, denoise=0.55)
    graph["6"]["inputs"]["samples"] = ["61", 0]
    return graph


def merge_and_save() -> dict:
    """Two styles as one tuner, saved as a file."""
    graph = picture("sd15", LIGHTHOUSE)
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
