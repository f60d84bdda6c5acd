"""Graphs run by the host's own executor in this process: without a server, with the embedded base and a few nodes."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace
from typing import Any

import execution
from comfy_api.latest import io
from demo_nodes import SCEditDemoCLIP, SCEditDemoModel, SCEditDemoVAE

import nodes as host_nodes


class TestFails(io.ComfyNode):
    """Anything -> an error, while `broken`."""

    broken = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFails",
            category="test",
            inputs=[io.AnyType.Input("anything")],
            outputs=[io.AnyType.Output()],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs) -> str:
        return str(cls.broken)

    @classmethod
    def execute(cls, anything) -> io.NodeOutput:
        if cls.broken:
            raise RuntimeError("a node of another pack has failed")
        return io.NodeOutput(anything)


def register(pack, monkeypatch) -> None:
    """Make the pack's nodes, those of the embedded base and core's for data sets known to the host."""
    found = {**pack.nodes}
    for node in (TestFails, SCEditDemoCLIP, SCEditDemoModel, SCEditDemoVAE):
        found[node.GET_SCHEMA().node_id] = node
    try:
        dataset = importlib.import_module("comfy_extras.nodes_dataset")
        names = ("LoadImageTextDataSetFromFolderNode", "MakeTrainingDataset", "ResolutionBucket")
        found |= {getattr(dataset, name).GET_SCHEMA().node_id: getattr(dataset, name) for name in names}
    except ImportError:  # older hosts have others
        found |= importlib.import_module("comfy_extras.nodes_train").NODE_CLASS_MAPPINGS
    for name, node in found.items():
        monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, name, node)


def executor() -> execution.PromptExecutor:
    """The host's, as if its page had been closed."""
    page = SimpleNamespace(client_id=None, last_node_id=None, sockets_metadata={}, send_sync=lambda *_: None)
    newer = "cache_args" in inspect.signature(execution.PromptExecutor).parameters
    more = {"cache_args": {"lru": 0, "ram": 0, "ram_inactive": 0}} if newer else {}
    return execution.PromptExecutor(page, **more)


def run(graph: dict[str, Any], outputs: list[str], by: execution.PromptExecutor, **more: Any) -> str:
    """Run a graph in the form of the API; gives the sentence of the node that fails, or "" where none does.

    more: what the page sends with it, such as extra_pnginfo.
    """
    by.execute(graph, "prompt", more, outputs)
    errors = [data for event, data in by.status_messages if event == "execution_error"]
    return errors[-1]["exception_message"].strip() if errors else ""


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """A node in the form of the API; links are pairs of a node's number and an output's."""
    return {"class_type": kind, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}}
