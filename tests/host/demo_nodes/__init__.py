"""Nodes that load the embedded base (demo/) and joints into the host, for tests and for pictures of the page."""

from __future__ import annotations

from json import loads

from comfy_api.latest import ComfyExtension, io

from .embedded_base import DemoText, DemoVAE, load_model


class SCEditDemoModel(io.ComfyNode):
    """-> MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditDemoModel",
            display_name="Demo model",
            category="SCEdit/demo",
            description="The U-Net of the embedded base.",
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(load_model())


class SCEditDemoPrompt(io.ComfyNode):
    """Text -> CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditDemoPrompt",
            display_name="Demo prompt",
            category="SCEdit/demo",
            description="A prompt for the embedded base.",
            inputs=[io.String.Input("text", default="a red house in the middle, in a meadow", multiline=True)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(DemoText().encode(text))


class SCEditDemoVAE(io.ComfyNode):
    """-> VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditDemoVAE",
            display_name="Demo VAE",
            category="SCEdit/demo",
            description="The autoencoder of the embedded base.",
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(DemoVAE())


class SCEditDemoCLIP(io.ComfyNode):
    """-> CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditDemoCLIP",
            display_name="Demo CLIP",
            category="SCEdit/demo",
            description="The text encoder of the embedded base.",
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(DemoText())


class SCEditDemoKeypoints(io.ComfyNode):
    """JSON -> POSE_KEYPOINT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SCEditDemoKeypoints",
            display_name="Demo keypoints",
            category="SCEdit/demo",
            description="Joints of people, as OpenPose writes them.",
            inputs=[io.String.Input("json", multiline=True)],
            outputs=[io.Custom("POSE_KEYPOINT").Output()],
        )

    @classmethod
    def execute(cls, json: str) -> io.NodeOutput:
        return io.NodeOutput(loads(json))


class DemoExtension(ComfyExtension):
    """All of them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SCEditDemoModel, SCEditDemoPrompt, SCEditDemoVAE, SCEditDemoCLIP, SCEditDemoKeypoints]


async def comfy_entrypoint() -> DemoExtension:
    """Asked for by the host at its start."""
    return DemoExtension()
