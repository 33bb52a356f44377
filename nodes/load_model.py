"""Load an ACE-Step 1.5 pipeline in diffusers' format."""

from pathlib import Path

from . import host
from .comfy import HEADLESS, io
from .types import CATEGORY, Model


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoLoadModel",
            display_name="Load Model (Ostinato)",
            category=CATEGORY,
            description="Load an ACE-Step 1.5 model in diffusers' format: a preset, a folder or a hub id.",
            search_aliases=["ace-step", "ostinato", "music model"],
            inputs=[
                io.String.Input(
                    "model",
                    default="tiny",
                    tooltip="tiny (turbo) and tiny-base are built in and sound like noise. Else a folder that holds "
                    "model_index.json, the name of one in ComfyUI's models/diffusers, or a hub id such as owner/name.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "float32", "bfloat16", "float16"],
                    default="auto",
                    tooltip="Precision of the weights. auto is bfloat16 on a GPU that has it, else float32.",
                ),
                io.Combo.Input(
                    "device",
                    options=["auto", "cuda", "cpu"],
                    default="auto",
                    tooltip="Where the model runs. auto is the GPU if there is one.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    tooltip="Fetch a hub id that is not on this machine yet (several GB). Off: nothing is downloaded.",
                ),
            ],
            outputs=[Model.Output(display_name="model", tooltip="For Engine, Encode Prompt, Source Audio and Decode.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: str, precision: str, device: str, download: bool) -> io.NodeOutput:
        from ..engine_runtime.models.loading import load, pick_device, pick_dtype

        where = pick_device(host.device_choice() if device == "auto" else device)
        node = cls.hidden.unique_id
        return io.NodeOutput(
            load(
                _installed(model),
                where,
                pick_dtype(precision, where),
                download,
                lambda done, total: host.progress(done, total, node),
            )
        )


def _installed(name: str) -> str:
    """The path of a model in ComfyUI's `models/diffusers`, or the name as it is."""
    if HEADLESS or not name.strip() or Path(name).is_absolute():
        return name
    import folder_paths

    places = (Path(root) / name for root in folder_paths.get_folder_paths("diffusers"))
    return next((str(place) for place in places if (place / "model_index.json").is_file()), name)
