"""ComfyUI-SCEdit: styles and controls that edit the skip connections of a diffusion U-Net."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The pack's nodes, asked for by the host once at its start."""
    from .nodes.extension import SCEditExtension  # the host alone has what this imports

    return SCEditExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
