"""Small nodes written against `nodes.shared.comfy`, as the pack's own are, and workflows made of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from ostinato.engine_runtime.errors import OstinatoError
from ostinato.nodes.shared import host
from ostinato.nodes.shared.comfy import io, ui

Toy = io.Custom("TOY")
StatsType = io.Custom("OSTINATO_STATS")


class ToyKnobs(io.ComfyNode):
    """One of every widget; `volume` is optional and stands first, the editor puts it last."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ToyKnobs",
            display_name="Toy Knobs",
            category="toy",
            description="Makes a toy of its widgets.",
            inputs=[
                io.Float.Input("volume", default=0.5, min=0.0, max=1.0, step=0.1, round=0.1, optional=True),
                io.Int.Input("seed", default=1, min=0, max=2**53, control_after_generate=True),
                io.Int.Input("steps", default=8, min=1, max=64, display_mode=io.NumberDisplay.slider),
                io.String.Input("tags", default="techno", multiline=True, placeholder="tags"),
                io.Combo.Input("mode", options=["ode", "sde"], default="ode", tooltip="how to step"),
                io.Boolean.Input("live", default=False, advanced=True),
                io.Int.Input("sides", force_input=True, optional=True),
                Toy.Input("toy", optional=True),
            ],
            outputs=[Toy.Output("toy"), io.Int.Output("number"), io.String.Output("text")],
        )

    @classmethod
    def execute(cls, seed: int, steps: int, tags: str, mode: str, live: bool, volume: float = 0.5, **rest: Any) -> Any:
        made = {"seed": seed, "steps": steps, "tags": tags, "mode": mode, "live": live, "volume": volume, **rest}
        return io.NodeOutput(made, seed, tags)


class ToyPlay(io.ComfyNode):
    """Sound, and stats of making it: `ticks` ticks of 10 ms, a latent each second tick."""

    runs: list[str | None] = []

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ToyPlay",
            display_name="Toy Play",
            category="toy",
            description="Plays a toy.",
            inputs=[Toy.Input("toy"), io.Int.Input("ticks", default=4, min=1, max=100)],
            outputs=[io.Audio.Output("audio"), StatsType.Output("stats")],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, toy: Any, ticks: int) -> io.NodeOutput:
        cls.runs.append(cls.hidden.unique_id)
        assert torch.is_inference_mode_enabled()
        for done in range(ticks):
            host.check_cancelled()
            host.progress(done + 1, ticks, cls.hidden.unique_id)
        waveform = torch.linspace(-0.5, 0.5, 100 * ticks).repeat(2, 2, 1)
        stats = SimpleNamespace(
            finished=ticks // 2,
            dropped=0,
            ticks=ticks,
            ms_per_tick=10.0 * ticks,
            realtime=float(ticks),
            latents_per_s=ticks / 2,
        )
        return io.NodeOutput({"waveform": waveform, "sample_rate": 8000}, stats)


class ToyShow(io.ComfyNode):
    """An output node, async, with a check of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ToyShow",
            display_name="Toy Show",
            category="toy",
            description="Shows a toy.",
            inputs=[Toy.Input("toy"), io.Int.Input("lines", default=1, min=0, max=9)],
            outputs=[Toy.Output("toy")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, toy: Any, lines: int) -> bool | str:
        assert toy is None
        return lines < 100 or f"lines is {lines}; allowed is below 100; use fewer."

    @classmethod
    async def execute(cls, toy: Any, lines: int) -> io.NodeOutput:
        text = " ".join(f"{name}={toy[name]}" for name in sorted(toy) if name != "toy")
        return io.NodeOutput(toy, ui=ui.PreviewText("\n".join([text] * lines)))


class ToyDraw(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ToyDraw", inputs=[io.AnyType.Input("any", optional=True)], is_output_node=True)

    @classmethod
    def execute(cls, any: Any = None) -> io.NodeOutput:
        return io.NodeOutput(ui=ui.PreviewImage(torch.rand(2, 4, 6, 3), cls=cls))


class ToyFail(io.ComfyNode):
    errors: dict[str, type[BaseException] | BaseException] = {
        "known": OstinatoError("depth is 9", "allowed is 1 to 8", "lower it"),
        "interrupt": KeyboardInterrupt(),
        "disk": OSError(28, "No space left on device"),
        "memory": torch.OutOfMemoryError("Tried to allocate\nmuch"),
        "bug": ZeroDivisionError("bug"),
    }

    @classmethod
    def define_schema(cls) -> io.Schema:
        options = list(cls.errors)
        return io.Schema(node_id="ToyFail", inputs=[io.Combo.Input("error", options=options)], is_output_node=True)

    @classmethod
    def execute(cls, error: str) -> io.NodeOutput:
        raise cls.errors[error]


TOYS: list[type[io.ComfyNode]] = [ToyKnobs, ToyPlay, ToyShow, ToyDraw, ToyFail]

KNOBS = {"seed": 7, "steps": 8, "tags": "a, b", "mode": "sde", "live": True, "volume": 0.25}
KNOB_VALUES = [7, "randomize", 8, "a, b", "sde", True, 0.25]  # as the editor keeps them


def api(**nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """The API form: api(n1=("ToyKnobs", {...})) makes node "1"."""
    return {key[1:]: {"class_type": kind, "inputs": dict(inputs)} for key, (kind, inputs) in nodes.items()}


def player() -> dict[str, Any]:
    return api(
        n1=("ToyKnobs", KNOBS),
        n2=("ToyPlay", {"toy": ["1", 0], "ticks": 4}),
        n3=("SaveAudio", {"audio": ["2", 0], "filename_prefix": "audio/toy"}),
        n4=("PreviewAudio", {"audio": ["2", 0]}),
        n5=("ToyShow", {"toy": ["1", 0], "lines": 1}),
    )


def socket(name: str, kind: str, link: int | None = None, widget: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link} | ({"widget": {"name": name}} if widget else {})


def raw(
    node_id: int, kind: str, inputs: list[Any] = (), outputs: list[str] = (), values: Any = None, **more: Any
) -> Any:
    """A node of the editor's form."""
    node = {"id": node_id, "type": kind, "mode": 0, "inputs": list(inputs), **more}
    node["outputs"] = [{"name": kind, "type": kind, "links": []} for kind in outputs]
    return node if values is None else node | {"widgets_values": values}


def editor(nodes: list[Any], links: list[Any], **more: Any) -> dict[str, Any]:
    return {"last_node_id": 99, "nodes": nodes, "links": links, "version": 0.4, **more}
