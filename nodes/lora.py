"""Low-rank adapters that a stream plays without a rebuild."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..engine_runtime.constants import MAX_STRENGTH
from ..engine_runtime.errors import InputError, check_range
from .shared import folders, host, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from pathlib import Path


class Lora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = sockets.chained(
            sockets.Adapters,
            "adapters",
            "to play several together",
            "OstinatoLora",
            "LoRA (Ostinato)",
            "A low-rank adapter beside the weights, which stay as they are: torch engines take it, and so do TensorRT "
            "engines that were built with LoRA inputs.",
            ["lora", "adapter", "style"],
            [
                io.Combo.Input(
                    "adapter",
                    options=folders.adapter_names() or [folders.NOTHING],
                    tooltip="A .safetensors file for ACE-Step 1.5 from ComfyUI's folder of LoRAs, or the folder that "
                    "PEFT wrote. On the command line also a path.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-MAX_STRENGTH,
                    max=MAX_STRENGTH,
                    step=0.05,
                    tooltip="1 is the adapter's own, 0 leaves it out, below 0 moves away from it.",
                ),
            ],
        )
        schema.hidden = [io.Hidden.unique_id]
        return schema

    @classmethod
    def validate_inputs(cls, adapter: str | None = None) -> bool | str:
        try:
            if adapter is not None:  # a linked input has no value yet
                folders.adapter_path(adapter)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, adapter: str | None = None, **_: Any) -> str:
        """Change when the file changes."""
        return "" if adapter is None else folders.file_stamp(folders.adapter_path(adapter))

    @classmethod
    def execute(
        cls, adapter: str, strength: float, adapters: tuple[tuple[Path, float], ...] | None = ()
    ) -> io.NodeOutput:
        check_range("the strength", strength, -MAX_STRENGTH, MAX_STRENGTH, "1 is the adapter's own")
        from ..engine_runtime.lora.adapter import note_of

        path = folders.adapter_path(adapter)
        host.show_text(note_of(path), cls.hidden.unique_id)
        return io.NodeOutput((*(adapters or ()), (path, strength)))
