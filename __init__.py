"""Ostinato: a ComfyUI node pack that plays a music diffusion model live. Importing it loads nothing heavy."""

WEB_DIRECTORY = "web"  # the editor's extension: every script there is one


async def comfy_entrypoint():
    """ComfyUI's entry point; the nodes are imported here, so that importing the package stays cheap."""
    from .nodes import OstinatoExtension

    return OstinatoExtension()
