"""A workflow as the page saves it, turned into the API form that a server runs, made small, and run."""

from __future__ import annotations

import copy
import io
import json

import graphs
import numpy as np
from host_server import Server, error_of
from PIL import Image

_NOTES = ("MarkdownNote", "Note")
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def saved_graph(stem: str, object_info: dict) -> dict:
    """A template in API form."""
    return to_api(json.loads(graphs.template(stem).read_text("utf-8")), object_info)


def made_small(graph: dict, seed: int = 1, side: int = 64) -> dict:
    """The same graph in one step, its picture `side` pixels high."""
    graph = copy.deepcopy(graph)
    for each in graph.values():
        inputs = each["inputs"]
        if each["class_type"] in ("EmptyLatentImage", "ImageScale"):
            inputs |= {"width": side, "height": side}
        elif each["class_type"] == "SolidMask":
            inputs |= {"width": inputs["width"] * side // inputs["height"], "height": side}
        elif each["class_type"] == "MaskComposite":
            inputs["x"] = side // 2 if inputs["x"] else 0
        elif each["class_type"] == "SCEditCompletion":
            inputs["right"] = side
        elif each["class_type"] in ("SCEditTrainOnModel", "SCEditDistillControlNet"):
            # at a rate at which two steps can be seen
            inputs |= {"folder": "few", "steps": 2, "batch": 1, "learning_rate": 0.05, "resolution": side}
            inputs |= {"preview_every": 0, "checkpointing": False}
            inputs |= {"residuals": 1} if "residuals" in inputs else {}
        elif each["class_type"] == "KSampler":
            inputs |= {"steps": 1, "seed": seed}
    return graph


def picture_of(server: Server, graph: dict) -> np.ndarray:
    """The one picture that a graph saves, as [H,W,3] in 0..255."""
    prompt_id, answer = server.queue(graph)
    assert prompt_id, answer
    return picture_in(server, graph, server.wait(prompt_id))


def picture_in(server: Server, graph: dict, entry: dict) -> np.ndarray:
    """The same of a graph that has run."""
    assert entry["status"]["status_str"] == "success", error_of(entry)
    saved = [output for node, output in entry["outputs"].items() if graph[node]["class_type"] == "SaveImage"]
    return np.asarray(Image.open(io.BytesIO(server.images({"outputs": dict(enumerate(saved))})[-1])).convert("RGB"))


def to_api(workflow: dict, object_info: dict) -> dict:
    """The graph in API form: links, and widget values in the order in which the node's schema has its widgets."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in _NOTES:
            continue
        inputs = {i["name"]: links[i["link"]] for i in node["inputs"] if i.get("link") is not None}
        values = iter(node.get("widgets_values", ()))
        for name, spec in _schema(object_info[node["type"]]):
            kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
            if not (isinstance(kind, list) or kind in _WIDGETS) or options.get("forceInput"):
                continue
            value = next(values)
            inputs.setdefault(name, value)  # a widget may have a link, which stands above its value
            if options.get("control_after_generate") or name == "seed":  # the page adds that widget to every seed
                next(values)
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def _schema(info: dict) -> list[tuple[str, list]]:
    return [item for group in ("required", "optional") for item in info["input"].get(group, {}).items()]
