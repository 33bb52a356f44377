"""Loads an ACE-Step 1.5 model."""

from dataclasses import replace
from typing import Any

from ..engine_runtime.errors import InputError
from ..engine_runtime.models.given import KINDS, Given
from .shared import folders, host, rescue, sockets
from .shared.comfy import HEADLESS, io


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoLoadModel",
            display_name="Load Model (Ostinato)",
            category=sockets.CATEGORY,
            description="Load an ACE-Step 1.5 model: a preset, a model in ComfyUI's folders or a hub id.",
            search_aliases=["ace-step", "ostinato", "music model"],
            inputs=[
                io.String.Input(
                    "model",
                    default="tiny",
                    tooltip="tiny (turbo) and tiny-base are built in and make simple music. Else the name of a folder "
                    "that holds model_index.json or of a .safetensors file in ComfyUI's model folders (diffusers, "
                    "checkpoints, diffusion_models) or in those of OSTINATO_MODELS, or a hub id such as owner/name.",
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
                *_given(),
            ],
            outputs=[
                sockets.Model.Output(
                    display_name="model", tooltip="For Engine, Encode Prompt, Source Audio and Decode."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, vae: str = folders.AUTO, text_encoder: str = folders.AUTO) -> bool | str:
        """Say what a shared workflow names and this machine does not have."""
        try:
            for part, name in (("vae", vae), ("text_encoder", text_encoder)):
                folders.part_path(part, name)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: str,
        precision: str,
        device: str,
        download: bool,
        kind: str = folders.AUTO,
        vae: str = folders.AUTO,
        text_encoder: str = folders.AUTO,
    ) -> io.NodeOutput:
        from ..engine_runtime.models.loading import load, pick_device, pick_dtype

        asked = host.device_choice()  # the command line's choice overrides the workflow's
        where = pick_device(device if asked == "auto" else asked)
        node, name, dtype = cls.hidden.unique_id, folders.model_source(model), pick_dtype(precision, where)

        parts = folders.part_path("vae", vae), folders.part_path("text_encoder", text_encoder)
        given = Given(None if kind == folders.AUTO else kind, *parts)

        def shown(done: int, total: int) -> None:
            host.progress(done, total, node)

        if HEADLESS:
            loaded = load(name, where, dtype, download, shown, given=given)
        else:
            unmanaged = load(name, pick_device("cpu"), dtype, download, shown, local=False, given=given)
            loaded = managed(unmanaged, where)
        rescue.know(loaded)
        return io.NodeOutput(loaded)


def _given() -> list[io.Input]:
    """Make the inputs for what a checkpoint does not say or hold.

    They are optional: graphs saved in the API form before they existed still play.
    """
    return [
        io.Combo.Input(
            "kind",
            options=[folders.AUTO, *KINDS],
            default=folders.AUTO,
            optional=True,
            tooltip="Of a .safetensors file whose name and metadata do not say it. turbo has guidance distilled in; "
            "base and sft need the node Guidance.",
        ),
        io.Combo.Input(
            "vae",
            options=[folders.AUTO, *folders.part_names("vae")],
            default=folders.AUTO,
            optional=True,
            tooltip="For a .safetensors file without a VAE. auto takes the only one of ACE-Step 1.5 in models/vae.",
        ),
        io.Combo.Input(
            "text_encoder",
            options=[folders.AUTO, *folders.part_names("text_encoder")],
            default=folders.AUTO,
            optional=True,
            tooltip="For a .safetensors file without its text encoder (Qwen3 0.6B). auto takes the only one in "
            "models/text_encoders.",
        ),
    ]


def managed(model: Any, where: Any) -> Any:
    """Put the model under ComfyUI's memory management."""
    from torch import nn

    from .shared.managed import manage

    parts = {name: part for name, part in model.pipe.components.items() if isinstance(part, nn.Module)}
    return replace(model, ready=manage(parts, where))
