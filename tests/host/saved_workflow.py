"""A workflow as the page saves it, turned into the API form that a server runs."""

from __future__ import annotations

_NOTES = ("MarkdownNote", "Note")
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


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
            if options.get("control_after_generate"):
                next(values)
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def _schema(info: dict) -> list[tuple[str, list]]:
    return [item for group in ("required", "optional") for item in info["input"].get(group, {}).items()]
