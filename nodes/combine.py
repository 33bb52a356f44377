"""Several conditions for one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .shared import control_values, sockets
from .shared.comfy import io
from .shared.values import share_input, value_input

if TYPE_CHECKING:
    from ..engine_runtime.stream.request import Condition, Part


class Combine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoCombineConditions",
            display_name="Combine Conditions (Ostinato)",
            category=sockets.CATEGORY,
            description="Play several prompts at once: at every frame each moves the music by its weight. Blend "
            "cross-fades between them while playing. Each condition needs a row of its own in every slot. Guidance "
            "moves away from the first one's negative.",
            search_aliases=["ostinato", "blend", "mix", "prompt"],
            inputs=[
                sockets.Condition.Input("first", tooltip="From Encode Prompt, Stream Conditioning or another Combine."),
                sockets.Condition.Input("second", tooltip="As long as the first."),
                *_part("first"),
                *_part("second"),
            ],
            outputs=[
                sockets.Condition.Output(display_name="condition", tooltip="For Stream Denoise, or a further Combine.")
            ],
        )

    @classmethod
    def execute(
        cls, first: Condition | tuple[Part, ...], second: Condition | tuple[Part, ...], **part: Any
    ) -> io.NodeOutput:
        from ..engine_runtime.constants import MAX_CONDITIONS
        from ..engine_runtime.errors import check_whole

        names = ("weight", "start", "end")
        one, two = ([part[f"{which}_{name}"] for name in names] for which in ("first", "second"))
        parts = (*control_values.as_parts(first, *one), *control_values.as_parts(second, *two))
        check_whole("the number of conditions", len(parts), 1, MAX_CONDITIONS, "combine fewer")
        return io.NodeOutput(parts)


def _part(which: str) -> list[io.Input]:
    return [
        value_input(
            f"{which}_weight",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip=f"Weight of the {which}; 0 leaves it out.",
        ),
        share_input(f"{which}_start", 0.0, f"Part of the steps from which the {which} holds.", advanced=True),
        share_input(f"{which}_end", 1.0, f"Part of the steps up to which the {which} holds.", advanced=True),
    ]
