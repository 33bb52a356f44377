"""Ostinato: a ComfyUI node pack that plays a music diffusion model live. Importing it loads nothing heavy."""


async def comfy_entrypoint():
    """ComfyUI's entry point; the nodes are imported here, so that importing the package stays cheap."""
    from .nodes import OstinatoExtension

    return OstinatoExtension()
