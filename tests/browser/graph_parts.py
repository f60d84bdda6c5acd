"""What the graphs of the templates and of the help pages are put together from, in the host's API form."""

from __future__ import annotations

from collections.abc import Iterator

from model_files import CHECKPOINTS

SIZES = {"sd15": 512, "sd21": 768, "sdxl": 1024}
PHOTOGRAPH = "example.png"  # every ComfyUI has a picture of that name in its input folder
Link = tuple[str, int]


def node(class_type: str, title: str | None = None, **inputs) -> dict:
    """One node in API form; an input given as a tuple (id, slot) is a link."""
    entry = {"class_type": class_type, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}}
    return entry | ({"_meta": {"title": title}} if title else {})


def links(graph: dict) -> Iterator[tuple[str, int, str, str]]:
    """All links of a graph as (from node, slot, to node, input name)."""
    for name, each in graph.items():
        for field, value in each["inputs"].items():
            if isinstance(value, list):
                yield str(value[0]), value[1], name, field


def picture(family: str, prompt: str, steps: int = 25, cfg: float = 7.0) -> dict[str, dict]:
    """Nodes 1 to 7: checkpoint, prompts, latent, sampler, decoder, saver, with no tuner in between yet."""
    size = SIZES[family]
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINTS[family].name),
        "2": node("CLIPTextEncode", "Positive prompt", text=prompt, clip=("1", 1)),
        "3": node("CLIPTextEncode", "Negative prompt", text="blurry, low quality", clip=("1", 1)),
        "4": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "5": sampler(("1", 0), ("2", 0), ("3", 0), ("4", 0), steps=steps, cfg=cfg),
        "6": node("VAEDecode", samples=("5", 0), vae=("1", 2)),
        "7": node("SaveImage", filename_prefix="SCEdit", images=("6", 0)),
    }


def demo_picture(prompt: str) -> dict[str, dict]:
    """The same on the embedded base, with its autoencoder as node 8 and an enlarger as 19."""
    return {
        "1": node("SCEditDemoModel"),
        "2": node("SCEditDemoPrompt", "Prompt", text=prompt),
        "3": node("SCEditDemoPrompt", "Negative prompt", text=""),
        "4": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "5": sampler(("1", 0), ("2", 0), ("3", 0), ("4", 0), "euler", "sgm_uniform", cfg=1.5, seed=3),
        "8": node("SCEditDemoVAE"),
        "6": node("VAEDecode", samples=("5", 0), vae=("8", 0)),
        "19": node("ImageScaleBy", "Twice as large", upscale_method="bicubic", scale_by=2.0, image=("6", 0)),
        "7": node("SaveImage", filename_prefix="SCEdit", images=("19", 0)),
    }


def sampler(
    model: Link,
    positive: Link,
    negative: Link,
    latent: Link,
    sampler_name: str = "dpmpp_2m",
    scheduler: str = "karras",
    steps: int = 25,
    cfg: float = 7.0,
    denoise: float = 1.0,
    seed: int = 20,
) -> dict:
    """A KSampler."""
    return node(
        "KSampler",
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler_name,
        scheduler=scheduler,
        denoise=denoise,
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
    )


def with_style(graph: dict, file: str, strength: float = 1.0, first: int = 10, **more) -> dict:
    """With an SC-Tuner on the sampler's model, as nodes `first` and `first` + 1."""
    graph[str(first)] = node("SCEditLoadSCTuner", tuner_name=file)
    return with_style_from(graph, (str(first), 0), strength, first + 1, **more)


def with_style_from(graph: dict, tuner: Link, strength: float, at: int, **more) -> dict:
    """With the SC-Tuner that comes over that link on the sampler's model, as node `at`."""
    inputs = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0, "side": "both"} | more
    model = tuple(graph["5"]["inputs"]["model"])
    graph[str(at)] = node("SCEditApplySCTuner", model=model, sc_tuner=tuner, **inputs)
    graph["5"]["inputs"]["model"] = [str(at), 0]
    return graph


def with_hint(graph: dict, condition: str, picture: str = PHOTOGRAPH, preview: bool = True, **options) -> dict:
    """With a picture as node 20 and the condition image that a node makes of it as node 21, and a look at it."""
    graph.setdefault("20", node("LoadImage", image=picture))
    graph["21"] = node(condition, image=("20", 0), **options)
    if preview:
        graph["22"] = node("PreviewImage", "The hint", images=("21", 0))
    return graph


def with_control(graph: dict, file: str, image: Link, strength: float = 1.0, first: int = 30, **more) -> dict:
    """With a CSC-Tuner on both prompts through the host's own Apply ControlNet."""
    graph[str(first)] = node("SCEditLoadCSCTuner", tuner_name=file)
    return with_controlnet_from(graph, (str(first), 0), image, strength, first + 1, **more)


def with_controlnet_from(graph: dict, control: Link, image: Link, strength: float, at: int, **more) -> dict:
    """With the ControlNet that comes over that link on both prompts, as node `at`."""
    prompts = graph["5"]["inputs"]
    inputs = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0} | more
    positive, negative = tuple(prompts["positive"]), tuple(prompts["negative"])
    graph[str(at)] = node(
        "ControlNetApplyAdvanced", control_net=control, image=image, positive=positive, negative=negative, **inputs
    )
    prompts["positive"], prompts["negative"] = [str(at), 0], [str(at), 1]
    return graph


def with_control_on_model(graph: dict, file: str, image: Link, strength: float = 1.0, first: int = 30, **more) -> dict:
    """With a CSC-Tuner on the sampler's model through Apply CSC-Tuner."""
    graph[str(first)] = node("SCEditLoadCSCTuner", tuner_name=file)
    inputs = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0, "resize": "crop"} | more
    graph[str(first + 1)] = node(
        "SCEditApplyCSCTuner",
        model=tuple(graph["5"]["inputs"]["model"]),
        control_net=(str(first), 0),
        image=image,
        **inputs,
    )
    graph["5"]["inputs"]["model"] = [str(first + 1), 0]
    return graph
