"""Encodes tags, lyrics and the rest into the decoder's condition."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..engine_runtime.models.prompt import ANY, TASKS, Prompt
from ..engine_runtime.spec import ACE_STEP
from .shared import layout, sockets
from .shared.comfy import io

if TYPE_CHECKING:
    from ..engine_runtime.models.loading import Model
    from .shared.given import Audio, Conditioning, Latent

DEFAULT = Prompt(tags="warm ambient piano, soft pads, slow")
# Those of ComfyUI's Text Encode Ace Step Audio 1.5, which ACE-Step was trained with.
ROOTS = ("C", "C#", "Db", "D", "D#", "Eb", "E", "F", "F#", "Gb", "G", "G#", "Ab", "A", "A#", "Bb", "B")
KEYS = tuple(f"{root} {mode}" for mode in ("major", "minor") for root in ROOTS)
METERS = ("2", "3", "4", "6")
LANGUAGES = tuple(
    "ar az bg bn ca cs da de el en es fa fi fr he hi hr ht hu id is it ja ko la lt ms ne nl no pa pl pt ro ru sa sk sr "
    "sv sw ta te th tl tr uk ur vi yue zh unknown".split()
)


class EncodePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OstinatoEncodePrompt",
            display_name="Encode Prompt (Ostinato)",
            category=sockets.CATEGORY,
            description="Turn a prompt, and for covers and repaints a source, into what the decoder attends to. "
            "ACE-Step's language model, which plans a song before it is played, does not run here: connect its plan to "
            "codes.",
            search_aliases=["ostinato", "text encode", "lyrics", "cover", "repaint"],
            inputs=[sockets.Model.Input("model", tooltip="From Load Model."), *_text(), *_music(), *_task()],
            outputs=[sockets.Condition.Output(display_name="condition", tooltip="For Stream Denoise.")],
        )

    @classmethod
    def validate_inputs(cls, tags: str | None = None) -> bool | str:
        if tags is not None and not tags.strip():
            return "The prompt has no tags; at least one word is needed; say what the music is like."
        return True

    @classmethod
    def execute(
        cls,
        model: Model,
        source: Latent | None = None,
        timbre: Audio | None = None,
        codes: Conditioning | str | None = None,
        **fields: Any,
    ) -> io.NodeOutput:
        from ..engine_runtime.audio.encode import encode_timbre
        from ..engine_runtime.models.conditioning import encode_prompt

        bpm = fields["bpm"]
        fields["bpm"] = round(bpm) if math.isfinite(bpm) else bpm  # a found tempo is a fraction
        latent = None if source is None else layout.single(source, "the source", model.spec)
        reference = None if timbre is None else encode_timbre(model, *layout.from_audio(timbre, "the timbre"))
        plan = None if codes is None else layout.codes_of(codes)
        return io.NodeOutput(encode_prompt(model, Prompt(**fields), latent, reference, plan))


def _text() -> list[io.Input]:
    return [
        io.String.Input(
            "tags",
            default=DEFAULT.tags,
            multiline=True,
            tooltip="Style, instruments, mood, voice: what the music is like.",
        ),
        io.String.Input(
            "lyrics",
            default="[instrumental]",
            multiline=True,
            tooltip="Words to sing, with section marks such as [verse] and [chorus]; [instrumental] for none.",
        ),
    ]


def _music() -> list[io.Input]:
    return [
        io.Float.Input(
            "seconds",
            default=DEFAULT.seconds,
            min=0.04,
            max=ACE_STEP.max_seconds,
            step=0.04,
            tooltip="Length in seconds. With a source connected the source's length is used instead.",
        ),
        io.MultiType.Input(
            io.Int.Input(
                "bpm",
                default=DEFAULT.bpm,
                min=0,
                max=1000,
                tooltip="Beats per minute; 0 leaves it open. Also takes the tempo that Curve Beats found.",
            ),
            types=[io.Int, io.Float],
        ),
        _chooser("key", KEYS, DEFAULT.key, "any leaves it open."),
        _chooser("time_signature", METERS, DEFAULT.time_signature, "Beats a bar; any leaves it open."),
        _chooser("language", LANGUAGES, DEFAULT.language, "Of the lyrics, as a code."),
    ]


def _chooser(id: str, options: tuple[str, ...], default: str, tooltip: str) -> io.Input:
    """Make a chooser whose socket takes any text; a workflow may hold any text too."""
    combo = io.Combo.Input(
        id, options=[ANY, *options], default=default, tooltip=f"{tooltip} Also takes any text, through its socket."
    )
    return io.MultiType.Input(combo, types=[io.Combo, io.String])


def _task() -> list[io.Input]:
    return [
        io.Combo.Input(
            "task",
            options=list(TASKS),
            default=DEFAULT.task,
            tooltip="text2music makes music from the prompt, cover keeps the source's structure, repaint makes the "
            "window anew and keeps the source around it.",
        ),
        io.Float.Input(
            "repaint_start",
            default=DEFAULT.repaint_start,
            min=0.0,
            max=ACE_STEP.max_seconds,
            step=0.04,
            tooltip="Repaint: the window's start in seconds.",
        ),
        io.Float.Input(
            "repaint_end",
            default=DEFAULT.repaint_end,
            min=0.0,
            max=ACE_STEP.max_seconds,
            step=0.04,
            tooltip="Repaint: the window's end in seconds; 0 is the source's end.",
        ),
        io.Latent.Input("source", optional=True, tooltip="From Source Audio: what a cover or a repaint starts from."),
        io.Audio.Input("timbre", optional=True, tooltip="A clip whose sound the music takes on; 30 s of it are used."),
        io.MultiType.Input(
            "codes",
            types=[io.Conditioning, io.String],
            optional=True,
            tooltip="ACE-Step's own plan of the music, for text2music. From ComfyUI's Text Encode Ace Step Audio 1.5, "
            "of which nothing else is used, or text with ACE-Step's code words. Without it large models sound plainer.",
        ),
    ]
