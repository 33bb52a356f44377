"""Builds a TensorRT engine while music plays, and plays on it once it is built."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..engine_runtime.errors import EngineFileError
from ..engine_runtime.trt.files.spec import DEFAULT_PROFILE, FLAVORS, KINDS, PRECISIONS
from .shared import engine_owner, host, sockets
from .shared.comfy import io, ui

if TYPE_CHECKING:
    from ..engine_runtime.engines.contract import Engine
    from ..engine_runtime.models.loading import Model
    from ..engine_runtime.trt.build.job import Job
    from ..engine_runtime.trt.build.queue import Wanted
    from ..engine_runtime.trt.play.engine import TrtEngine

NODE = "OstinatoBuildEngine"
BUILD, CANCEL = "build", "cancel"
AUTO = "auto"
PAUSE = 0.2  # seconds between two looks at a build that the node waits for


class BuildEngine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=NODE,
            display_name="Build Engine (Ostinato)",
            category=sockets.CATEGORY,
            description="Build a TensorRT engine in a process of its own. The graph goes on at once on a torch engine; "
            "once the engine is built, the next run plays on it. What is built already is not built again.",
            search_aliases=["ostinato", "tensorrt", "rtx", "compile", "trt"],
            is_output_node=True,
            inputs=[
                sockets.Model.Input("model", tooltip="From Load Model."),
                io.Combo.Input(
                    "action",
                    options=[BUILD, CANCEL],
                    default=BUILD,
                    tooltip="build starts it, unless it runs or is there. cancel ends what this node asked for last, "
                    "and what else runs under that name, and forgets one that failed, so that build tries again.",
                ),
                *_kinds(),
                *_sizes(),
                io.Boolean.Input(
                    "wait",
                    default=False,
                    tooltip="Hold the graph until the engine is built. For the command line: there the build ends with "
                    "the program.",
                ),
                sockets.Engine.Input(
                    "fallback", optional=True, tooltip="Plays until then; without it, eager on the model."
                ),
            ],
            outputs=[
                sockets.Engine.Output(
                    display_name="engine", tooltip="The built engine; until it is there, a torch engine."
                ),
                io.String.Output(display_name="info", tooltip="Where the build is, and what plays."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        """Change when the node must run again: its build ended, or its engine was closed or cancelled."""
        from ..engine_runtime.trt.build.queue import builds
        from ..engine_runtime.trt.loader import changes

        who = engine_owner.owner(cls.hidden, BUILD)
        return f"{builds().turn(who)} {changes(who)}"

    @classmethod
    def execute(
        cls, model: Model, action: str, wait: bool, fallback: Engine | None = None, **asked: Any
    ) -> io.NodeOutput:
        wanted, who = _wanted(model, **asked), engine_owner.owner(cls.hidden, BUILD)
        engine: Engine | None = None
        try:
            if action == CANCEL:
                info = _cancelled(who, wanted)
            else:
                engine, info = _built(wanted, model, wait, cls.hidden)
        except engine_owner.CANNOT_PLAY as error:
            info = engine_owner.message_for(who, wanted.spec.name, error)
        engine = engine or engine_owner.torch_engine(who, fallback or model)
        text = f"{info}\n\nplaying on {engine.name}"
        host.show_text(text, cls.hidden.unique_id)
        return io.NodeOutput(engine, text, ui=ui.PreviewText(text))


def _kinds() -> list[io.Input]:
    return [
        io.Combo.Input(
            "what",
            options=list(KINDS),
            default=KINDS[0],
            tooltip="The part of the model. A decoder plays from here; vae_decoder plays through Load VAE Engine. "
            "A VAE is built in float32.",
        ),
        io.Combo.Input(
            "flavor",
            options=list(FLAVORS),
            default=next(iter(FLAVORS)),
            tooltip="rtx is TensorRT-RTX: builds without a GPU, plays on Ampere, Ada and Blackwell. tensorrt builds on "
            "the GPU that plays.",
        ),
        io.Combo.Input(
            "precision",
            options=[AUTO, *PRECISIONS],
            default=AUTO,
            tooltip="auto is bf16 for a decoder and fp32 for a VAE.",
        ),
        io.Boolean.Input(
            "lora", default=False, tooltip="With inputs for adapters from LoRA; a little slower where there is none."
        ),
        io.Boolean.Input(
            "refittable",
            default=False,
            tooltip="For Refit LoRA: weights can be exchanged in place. TensorRT-RTX needs a GPU to build it.",
        ),
        io.String.Input("name", default="", tooltip="Of the engine; empty makes one from the rest."),
    ]


def _sizes() -> list[io.Input]:
    form = "minimum:optimum:maximum, or one number for a fixed size; with commas for several profiles."
    tooltips = {
        "batch": f"Rows of one pass: a slot needs one, or two with guidance. {form}",
        "seconds": f"Of music in each row. {form}",
        "tokens": f"Of each condition; for a decoder. {form}",
        "rank": f"Of all adapters together; with lora. {form}",
    }
    return [io.String.Input(name, default=DEFAULT_PROFILE[name], tooltip=text) for name, text in tooltips.items()]


def _wanted(model: Model, what: str, flavor: str, precision: str, name: str, **rest: Any) -> Wanted:
    from ..engine_runtime.trt.build.queue import Wanted
    from ..engine_runtime.trt.files.folder import engines_home
    from ..engine_runtime.trt.files.spec import make_spec
    from ..engine_runtime.trt.loader import digest_of

    texts = {size: rest.pop(size).strip() or None for size in DEFAULT_PROFILE}
    unused = {"tokens": what != KINDS[0], "rank": not rest["lora"]}  # the widgets of unused sizes hold text too
    texts |= {size: None for size, left_out in unused.items() if left_out}
    chosen = None if precision == AUTO else precision
    spec = make_spec(
        flavor, what, {"model": model.source}, texts, name.strip() or None, chosen, given=model.given, **rest
    )
    return Wanted(spec, engines_home().absolute(), digest_of(model, spec.kind, spec.precision))


def _built(wanted: Wanted, model: Model, wait: bool, hidden: io.HiddenHolder) -> tuple[TrtEngine | None, str]:
    """Return the engine, or None where it cannot play yet, and the text to show.

    Raises:
        EngineFileError: for an engine of other settings under that name.
    """
    from ..engine_runtime.trt.build.job import State
    from ..engine_runtime.trt.build.queue import builds

    who, node = engine_owner.owner(hidden, BUILD), hidden.unique_id

    def show(job: Job) -> None:
        if host.ran_last(node, NODE):
            host.show_text(_describe(job), node)

    job = builds().ask(who, wanted, show)
    if wait and job is not None:
        while not job.over:
            host.check_cancelled()
            host.progress(round(100 * job.fraction), 100, node)
            job.wait(PAUSE)
        builds().looked(who)
    if job is not None and job.state is not State.done:
        return None, _describe(job)
    if wanted.spec.kind != KINDS[0]:
        return None, f"{wanted.spec.name} is built"
    try:
        engine = replace(engine_owner.place(model, hidden), folders=[wanted.folder]).open(who, wanted.spec.name)
    except EngineFileError as error:
        if error.reason != "tampered" or (again := builds().ask(who, wanted, show, broken=True)) is None:
            raise
        return None, f"{error}\n\n{_describe(again)}"
    if engine.sidecar.spec != wanted.spec:
        raise EngineFileError(
            f"{wanted.spec.name} has other settings by now: {engine.sidecar.spec.command()}",
            "what plays is what was asked for",
            "run again, to build it anew",
            "recipe",
        )
    return engine, engine.summary()


def _describe(job: Job) -> str:
    """Describe the state of a build and what to do next; of one that failed the error comes last, for it ends with what
    the build said last."""
    from ..engine_runtime.trt.build.job import State
    from ..engine_runtime.trt.build.queue import progress_line

    line = progress_line(job)
    if job.state is State.failed:
        return f"To try the build again, run once with action {CANCEL}.\n\n{line}"
    return f"{line}; run the graph again to play on it" if job.state is State.done else line


def _cancelled(who: str, wanted: Wanted) -> str:
    from ..engine_runtime.trt.build.queue import builds, progress_line

    return "\n".join(map(progress_line, builds().cancel(who, wanted))) or f"no build of {wanted.spec.name} runs"
