"""Several conditions for one request."""

from .shared import carried
from .shared.comfy import io
from .shared.types import CATEGORY, Condition
from .shared.values import share_input, value_input


class Combine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoCombineConditions",
            display_name="Combine Conditions (Ostinato)",
            category=CATEGORY,
            description="Play several prompts at once: at every frame each moves the music by its weight. Blend "
            "cross-fades between them while playing. Each condition needs a row of its own in every slot. Guidance "
            "moves away from the first one's negative.",
            search_aliases=["ostinato", "blend", "mix", "prompt"],
            inputs=[
                Condition.Input("first", tooltip="From Encode Prompt, Stream Conditioning or another Combine."),
                Condition.Input("second", tooltip="As long as the first."),
                *_part("first"),
                *_part("second"),
            ],
            outputs=[Condition.Output(display_name="condition", tooltip="For Stream Denoise, or a further Combine.")],
        )

    @classmethod
    def execute(cls, first, second, **part) -> io.NodeOutput:
        from ..engine_runtime.constants import MAX_CONDITIONS
        from ..engine_runtime.errors import check_whole

        names = ("weight", "start", "end")
        one, two = ([part[f"{which}_{name}"] for name in names] for which in ("first", "second"))
        parts = (*carried.parts_of(first, *one), *carried.parts_of(second, *two))
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
