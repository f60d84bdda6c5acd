"""The graphs behind workflows/*.json, in the host's API form, each with the note that is shown beside it."""

from __future__ import annotations

CHECKPOINTS = {"sd15": "v1-5-pruned-emaonly-fp16.safetensors", "sdxl": "sd_xl_base_1.0.safetensors"}
SIZES = {"sd15": 512, "sdxl": 1024}
PHOTOGRAPH = "photograph.png"
STYLE = {"sd15": "sd15_style.safetensors", "sdxl": "sdxl_style.safetensors"}
CANNY, COLOR = "sd15_canny.safetensors", "sd15_color.safetensors"

_FOLDERS = "Tuners go into `ComfyUI/models/scedit`, checkpoints into `ComfyUI/models/checkpoints`."
_STYLE_NOTE = (
    "**{style}** is any SC-Tuner for {family}: one that you trained, or a released SCEPTER or SWIFT folder, dropped in "
    "as it was downloaded. Choose yours in *Load SC-Tuner*."
)
_CONTROL_NOTE = "**{name}** is a control tuner (CSC-Tuner) for {condition}. Choose yours in *Load CSC-Tuner*."


def node(class_type: str, title: str | None = None, **inputs) -> dict:
    """One node in API form; an input given as a tuple (id, slot) is a link."""
    entry = {"class_type": class_type, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}}
    return entry | ({"_meta": {"title": title}} if title else {})


def _picture(family: str, prompt: str) -> dict[str, dict]:
    """Nodes 1 to 7: checkpoint, prompts, latent, sampler, decoder, saver, with no tuner in between yet."""
    size = SIZES[family]
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINTS[family]),
        "2": node("CLIPTextEncode", "Positive prompt", text=prompt, clip=("1", 1)),
        "3": node("CLIPTextEncode", "Negative prompt", text="blurry, low quality", clip=("1", 1)),
        "4": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "5": node(
            "KSampler",
            seed=20,
            steps=25,
            cfg=7.0,
            sampler_name="dpmpp_2m",
            scheduler="karras",
            denoise=1.0,
            model=("1", 0),
            positive=("2", 0),
            negative=("3", 0),
            latent_image=("4", 0),
        ),
        "6": node("VAEDecode", samples=("5", 0), vae=("1", 2)),
        "7": node("SaveImage", filename_prefix="SCEdit", images=("6", 0)),
    }


def _style(graph: dict, family: str, strength: float = 1.0) -> dict:
    """With an SC-Tuner on the model."""
    graph["10"] = node("SCEditLoadSCTuner", tuner_name=STYLE[family])
    graph["11"] = node(
        "SCEditApplySCTuner",
        strength=strength,
        start_percent=0.0,
        end_percent=1.0,
        side="both",
        model=tuple(graph["5"]["inputs"]["model"]),
        sc_tuner=("10", 0),
    )
    graph["5"]["inputs"]["model"] = ["11", 0]
    return graph


def _canny_hint(graph: dict) -> dict:
    """With a photograph and its edges, as nodes 20 and 21, and a look at them."""
    graph["20"] = node("LoadImage", image=PHOTOGRAPH)
    graph["21"] = node("Canny", low_threshold=0.3, high_threshold=0.6, image=("20", 0))
    graph["22"] = node("PreviewImage", "The hint", images=("21", 0))
    return graph


def _control(graph: dict, first: int, name: str, image: tuple[str, int], strength: float, end: float = 1.0) -> dict:
    """With a CSC-Tuner on both prompts through the host's own Apply ControlNet."""
    sampler = graph["5"]["inputs"]
    graph[str(first)] = node("SCEditLoadCSCTuner", tuner_name=name)
    graph[str(first + 1)] = node(
        "ControlNetApplyAdvanced",
        strength=strength,
        start_percent=0.0,
        end_percent=end,
        positive=tuple(sampler["positive"]),
        negative=tuple(sampler["negative"]),
        control_net=(str(first), 0),
        image=image,
    )
    sampler["positive"], sampler["negative"] = [str(first + 1), 0], [str(first + 1), 1]
    return graph


def style_sd15() -> dict:
    """An SC-Tuner on SD 1.5."""
    return _style(_picture("sd15", "a lighthouse on a cliff above the sea"), "sd15")


def style_sdxl() -> dict:
    """An SC-Tuner on SDXL."""
    return _style(_picture("sdxl", "a lighthouse on a cliff above the sea"), "sdxl")


def control_canny() -> dict:
    """Edges through Apply ControlNet."""
    graph = _canny_hint(_picture("sd15", "a portrait of an astronaut, oil painting"))
    return _control(graph, 30, CANNY, ("21", 0), 1.0)


def control_and_style() -> dict:
    """Edges, colours and a style at once."""
    graph = _canny_hint(_style(_picture("sd15", "a portrait of an astronaut"), "sd15", 0.8))
    graph = _control(graph, 30, CANNY, ("21", 0), 0.9)
    graph["40"] = node("ImageScale", "Colours, 16 pixels", upscale_method="area", width=16, height=16, crop="center")
    graph["40"]["inputs"]["image"] = ["20", 0]
    graph["41"] = node("ImageScale", "and large again", upscale_method="nearest-exact", width=512, height=512)
    graph["41"]["inputs"] |= {"crop": "disabled", "image": ["40", 0]}
    return _control(graph, 42, COLOR, ("41", 0), 0.6, end=0.7)


def control_on_model() -> dict:
    """Edges through Apply CSC-Tuner, on the model."""
    graph = _canny_hint(_picture("sd15", "a portrait of an astronaut, oil painting"))
    graph["30"] = node("SCEditLoadCSCTuner", tuner_name=CANNY)
    graph["32"] = node("SCEditBlockWeights", preset="flat", weights=", ".join(["1"] * 12))
    graph["31"] = node(
        "SCEditApplyCSCTuner",
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
        resize="crop",
        model=("1", 0),
        control_net=("30", 0),
        image=("21", 0),
        block_weights=("32", 0),
    )
    graph["5"]["inputs"]["model"] = ["31", 0]
    return graph


# File stem: (graph, title, note).
WORKFLOWS = {
    "sc_tuner_sd15": (
        style_sd15,
        "SC-Tuner (SD 1.5)",
        _STYLE_NOTE.format(style=STYLE["sd15"], family="SD 1.5"),
    ),
    "sc_tuner_sdxl": (
        style_sdxl,
        "SC-Tuner (SDXL)",
        _STYLE_NOTE.format(style=STYLE["sdxl"], family="SDXL"),
    ),
    "csc_canny_sd15": (
        control_canny,
        "CSC-Tuner: edges (SD 1.5)",
        _CONTROL_NOTE.format(name=CANNY, condition="Canny edges"),
    ),
    "csc_canny_color_and_style_sd15": (
        control_and_style,
        "CSC-Tuners: edges and colours, with a style (SD 1.5)",
        "\n\n".join(
            [
                _STYLE_NOTE.format(style=STYLE["sd15"], family="SD 1.5"),
                _CONTROL_NOTE.format(name=CANNY, condition="Canny edges"),
                _CONTROL_NOTE.format(name=COLOR, condition="colour grids"),
                "All three read the same unedited skips: their order does not matter.",
            ]
        ),
    ),
    "csc_canny_on_model_sd15": (
        control_on_model,
        "CSC-Tuner on the model: edges (SD 1.5)",
        _CONTROL_NOTE.format(name=CANNY, condition="Canny edges")
        + "\n\n*Apply CSC-Tuner* works on the model, positive and negative prompt in one pass, with block weights.",
    ),
}


def note(stem: str) -> str:
    """The note of a workflow, in Markdown."""
    _, title, text = WORKFLOWS[stem]
    return f"### {title}\n\n{text}\n\n{_FOLDERS}"
