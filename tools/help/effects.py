"""Makes what the help pages' pictures show of a node's effect, by the nodes with the built-in model and curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from ostinato.nodes import NODES
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.run import run_node, widget_of

from . import svg

RATE, SECONDS, FRAMES = 48_000, 6.0, 150  # of the music that is drawn
PROMPT = "deep house, piano, synth bass, drums"
Plots = tuple[list[str], float]

_TYPES = {node.GET_SCHEMA().node_id.removeprefix("Ostinato"): node for node in NODES}


def run(name: str, **given: Any) -> Any:
    """Run a node, by its id without the prefix, on its widgets' defaults and these inputs; returns its outputs."""
    node = _TYPES[name]
    specs = [(spec, widget_of(spec)) for spec in node.GET_SCHEMA().inputs]
    defaults = {spec.id: widget.default for spec, widget in specs if hasattr(widget, "default")}
    hidden = {io.Hidden.unique_id: "help"}
    return run_node(node, {name: value for name, value in (defaults | given).items() if value is not None}, hidden)


@cache
def model(name: str = "tiny") -> Any:
    return run("LoadModel", model=name, device="cpu")[0]


@cache
def engine(name: str = "tiny") -> Any:
    return run("Engine", model=model(name))[0]


@cache
def prompt(tags: str = PROMPT, name: str = "tiny", bpm: int = 120) -> Any:
    return run("EncodePrompt", model=model(name), tags=tags, seconds=SECONDS, bpm=bpm, key="A minor")[0]


def play(condition: Any = None, name: str = "tiny", count: int = 1, **more: Any) -> Any:
    """Return clips `[count, channels, samples]` of Stream Denoise and Stream Decode."""
    made = run("StreamDenoise", engine=engine(name), condition=condition or prompt(), count=count, **more)
    return run("StreamDecode", model=model(name), latents=made[0])[0]["waveform"].numpy()


@cache
def clip() -> dict[str, Any]:
    """Return a clip of the built-in model as AUDIO."""
    import torch

    return {"waveform": torch.from_numpy(play(prompt("funk, drums only", bpm=104), seed=4)), "sample_rate": RATE}


@cache
def source() -> Any:
    return run("SourceAudio", model=model(), audio=clip())[0]


def stack(rows: Sequence[tuple[str, float, Callable[[float, float, float, float], str]]]) -> Plots:
    """Lay out plots under each other, each with its name; a row is its name, height and what draws it."""
    y, parts = 4.0, []
    for name, height, draw in rows:
        parts.append(svg.text(svg.PAD, y + 12, name, 12, svg.FAINT))
        parts.append(svg.rect(svg.PAD, y + 18, svg.WIDTH - 2 * svg.PAD, height, svg.BOX))
        parts.append(draw(svg.PAD, y + 18, svg.WIDTH - 2 * svg.PAD, height))
        y += height + 18 + svg.GAP
    return parts, y


def sound(name: str, audio: Any) -> tuple[str, float, Any]:
    return name, 76.0, lambda x, y, w, h: svg.heat(svg.spectrogram(audio, RATE), x, y, w, h)


def shape(name: str, audio: Any, over: Any = None, low: float = 0.0, high: float = 1.0) -> tuple[str, float, Any]:
    """Draw a waveform, and a curve over it where one is given."""

    def draw(x: float, y: float, w: float, h: float) -> str:
        wave = svg.wave(audio, x, y, w, h)
        return wave if over is None else wave + svg.line(over, x, y + 4, w, h - 8, low, high, svg.MARK)

    return name, 76.0, draw


def curves(name: str, *made: Any, frames: int = 250, low: float = 0.0, high: float = 1.0) -> tuple[str, float, Any]:
    """Draw curves over 10 s in one frame."""
    fills = [svg.LINE, svg.MARK]

    def draw(x: float, y: float, w: float, h: float) -> str:
        drawn = [curve.values(frames) if hasattr(curve, "values") else curve for curve in made]
        return "".join(svg.line(d, x, y + 5, w, h - 10, low, high, fills[i % 2]) for i, d in enumerate(drawn))

    return name, 84.0, draw


def curve(name: str, **given: Any) -> Any:
    return run(f"Curve{name}", **given)[0]


def encode_prompt() -> Plots:
    two = [("jazz trio, saxophone, piano, double bass, drums", 112), ("funk, drums only", 104)]
    return stack([sound(f"{tags}, bpm {bpm}", play(prompt(tags, bpm=bpm))[0]) for tags, bpm in two])


def source_audio() -> Plots:
    latent = source()["samples"][0].numpy()
    shown = (latent - np.percentile(latent, 1)) / (np.percentile(latent, 99) - np.percentile(latent, 1))
    channels = ("its latent: 64 channels, 25 frames a second", 96.0, lambda x, y, w, h: svg.heat(shown, x, y, w, h))
    return stack([shape("a clip", clip()["waveform"][0]), channels])


def guidance() -> Plots:
    condition, rows = prompt(name="tiny-base"), []
    for scale in (1.0, 3.0, 7.0):
        guide = run("Guidance", scale=scale)[0]
        rows.append(sound(f"scale {scale:g}", play(condition, "tiny-base", steps=20, guidance=guide)[0]))
    return stack(rows)


def stream_denoise() -> Plots:
    """Draw which request each slot of a ring holds at each tick, and how far it is."""
    from ostinato.engine_runtime.config import Sampling
    from ostinato.engine_runtime.stream.sessions import runtime
    from ostinato.engine_runtime.takes.render import stream_config, take_batch

    requests = take_batch(prompt(), Sampling(steps=8), 10, 1)
    seen: list[list[tuple[int, int] | None]] = []
    with runtime().playing("help", engine(), stream_config(requests, 4)) as session:

        def look() -> None:
            slots = session.stage.ring.slots
            seen.append([(requests.index(s.request), s.step) if s.request in requests else None for s in slots])

        for _ in session.play(requests, look):
            pass
    return _ring(seen[1:])


def _ring(seen: list[list[tuple[int, int] | None]]) -> Plots:
    cell, rows = (svg.WIDTH - 2 * svg.PAD) / len(seen), 22
    parts = [svg.text(svg.PAD, 14, "ten requests in a ring of four, tick by tick", 12, svg.FAINT)]
    for t, slots in enumerate(seen):
        for i, held in enumerate(slots):
            if held is not None:
                fill = svg.COLOURS[held[0] % len(svg.COLOURS)]
                share = f'opacity="{0.25 + 0.75 * held[1] / 8:.2f}"'
                parts.append(svg.rect(svg.PAD + t * cell, 22 + i * rows, cell - 1, rows - 3, fill, share))
    return parts, 22.0 + 4 * rows + svg.GAP


def stream_decode() -> Plots:
    return stack([shape(f"seed {i}", audio) for i, audio in enumerate(play(count=3))])


def stream_stats() -> Plots:
    stats = run("StreamDenoise", engine=engine(), condition=prompt(), count=6)[1]
    ticks = np.array(stats.tick_ms)
    drawn = curves(f"{len(ticks)} ticks, ms each; the line is their median", ticks, np.full(2, np.median(ticks)))
    return stack([(drawn[0], drawn[1], _scaled(ticks))])


def _scaled(ticks: Any) -> Callable[[float, float, float, float], str]:
    def draw(x: float, y: float, w: float, h: float) -> str:
        top, middle = float(ticks.max()) * 1.1, np.full(2, np.median(ticks))
        drawn = svg.line(ticks, x, y, w, h, 0, top, svg.LINE)
        return drawn + svg.line(middle, x, y, w, h, 0, top, svg.MARK)

    return draw


TWO = ("jazz trio, saxophone, piano, double bass, drums", "8-bit video game, square lead, synth bass")


def _pair(**more: Any) -> Any:
    return run("CombineConditions", first=prompt(TWO[0]), second=prompt(TWO[1]), **more)[0]


def combine() -> Plots:
    alone = [sound(f"only: {tags}", play(prompt(tags))[0]) for tags in TWO]
    return stack([alone[0], sound("both, weight 1 each", play(_pair())[0]), alone[1]])


def knobs() -> Plots:
    rows = []
    for scale in (0.7, 1.0, 1.3):
        turned = run("Knobs", velocity_scale=scale)[0]
        rows.append(sound(f"velocity_scale {scale:g}", play(knobs=turned)[0]))
    return stack(rows)


def blend() -> Plots:
    ramp = curve("Ramp", begin=1.0, until=5.0)
    turned = run("Blend", blend=ramp)[0]
    return stack([curves("blend", ramp, frames=FRAMES), sound("the music", play(_pair(), knobs=turned)[0])])


def channel_gain() -> Plots:
    rows = []
    for gain in (0.0, 1.0, 2.0):
        turned = run("ChannelGain", gain=gain, first=0, last=15)[0]
        rows.append(sound(f"channels 0 to 15 at {gain:g}", play(knobs=turned)[0]))
    return stack(rows)


def dcw() -> Plots:
    made = [("without", play()[0]), ("with the defaults", play(knobs=run("Dcw")[0])[0])]
    strong = play(knobs=run("Dcw", dcw_low=0.3, dcw_high=0.2)[0])[0]
    return stack([sound(name, audio) for name, audio in [*made, ("dcw_low 0.3, dcw_high 0.2", strong)]])


def target() -> Plots:
    pulled = play(shape=run("Target", latent=source())[0], knobs=run("Knobs", target_strength=0.5)[0])[0]
    rows = [sound("the clip", clip()["waveform"][0]), sound("pulled to it, target_strength 0.5", pulled)]
    return stack([*rows, sound("the same seed without a target", play()[0])])


def mask() -> Plots:
    wanted = curve("Lfo", shape="square", rate=1.5, unit="cycles", phase=0.5)
    made = play(shape=run("Mask", mask=wanted)[0], source=source())[0]
    over = wanted.values(FRAMES)
    rows = [shape("the source, and the mask: 1 is made anew", clip()["waveform"][0], over), shape("the result", made)]
    return stack([rows[0], rows[1], sound("the result", made)])


def initial_noise() -> Plots:
    ramp = curve("Ramp", begin=1.0, until=5.0)
    made = play(shape=run("InitialNoise", noise=ramp)[0], source=source(), denoise=0.7)[0]
    first = shape("the source, and the share of noise", clip()["waveform"][0], ramp.values(FRAMES))
    return stack([first, shape("the result", made), sound("the result", made)])


def constant() -> Plots:
    return stack([curves("value 0.7", curve("Constant", value=0.7))])


def ramp() -> Plots:
    return stack([curves("0 to 1, begin 2, until 6", curve("Ramp", begin=2.0, until=6.0))])


def lfo() -> Plots:
    shapes = _TYPES["CurveLfo"].GET_SCHEMA().inputs[0].options
    return stack([curves(f"{name}, 0.5 Hz", curve("Lfo", shape=name, seed=9)) for name in shapes])


def points() -> Plots:
    drawn = {"points": [[0, 0.1], [0.2, 0.8], [0.5, 0.3], [0.7, 0.9], [1, 0.2]], "interpolation": "monotone_cubic"}
    return stack([curves("five points", curve("Points", points=drawn))])


def arithmetic() -> Plots:
    swing, fade = curve("Lfo", rate=1.0), curve("Ramp")
    product = curve("Math", a=swing, b=fade, operation="multiply")
    return stack([curves("an LFO and a ramp", swing, fade), curves("multiply", product)])


def envelope() -> Plots:
    made = curve("Envelope", audio=clip())
    return stack([shape("attack 10, release 200", clip()["waveform"][0], made.values(made.frames))])


def beats() -> Plots:
    import torch

    house = torch.from_numpy(play(seed=2))
    made, bpm = run("CurveBeats", audio={"waveform": house, "sample_rate": RATE}).args
    return stack([shape(f"bpm {bpm:.0f}", house[0], made.values(made.frames))])


def resample() -> Plots:
    short = curve("Lfo", shape="random", rate=3.0, seed=9)
    long = curve("Resample", curve=short, seconds=4.0)
    return stack([curves("4 s of a curve", short, frames=100), curves("resampled, over 10 s", long)])


def shift() -> Plots:
    grid = curve("Beats", bpm=60.0, decay=150.0)
    moved = curve("Shift", curve=grid, seconds=0.5)
    return stack([curves("a curve, and the same 0.5 s later", grid, moved)])


def preview() -> Plots:
    made = curve("Envelope", audio=clip(), attack=0.0, release=60.0)
    return stack([shape("a curve over the waveform of a clip", clip()["waveform"][0], made.values(made.frames))])


def automation() -> Plots:
    swing = curve("Lfo", rate=1.0, low=0.8, high=1.2)
    track = run("Automation", knob="velocity_scale", curve=swing, ticks=50, start=10, loop=True)[0][0]
    values = [1.0] * track.start + [track.values[t % len(track.values)] for t in range(90)]
    steps = np.repeat(values, 4)
    return stack([curves("velocity_scale over 100 ticks: start 10, ticks 50, loop", steps, low=0.7, high=1.3)])


def layer_profile() -> Plots:
    made = run("LayerProfile", engine=engine(), seconds=10.0, ticks=5)[2]
    kinds = sorted(made.kinds().items(), key=lambda pair: -pair[1])
    parts = [svg.text(svg.PAD, 14, "share of a tick's layers by kind, the built-in model on a CPU", 12, svg.FAINT)]
    for i, (kind, ms) in enumerate(kinds):
        y, width = 24 + 20 * i, 500 * ms / kinds[0][1]
        parts += [svg.text(svg.PAD, y + 12, kind, 12), svg.rect(170, y, max(width, 1), 14, svg.LINE)]
        parts.append(svg.text(178 + width, y + 12, f"{100 * ms / made.total_ms:.0f} %", 11, svg.FAINT))
    return parts, 24.0 + 20 * len(kinds) + svg.GAP


# What is drawn from numbers alone, in moments; the same on each machine.
CURVES: dict[str, Callable[[], Plots]] = {
    "OstinatoCurveConstant": constant,
    "OstinatoCurveRamp": ramp,
    "OstinatoCurveLfo": lfo,
    "OstinatoCurvePoints": points,
    "OstinatoCurveMath": arithmetic,
    "OstinatoCurveResample": resample,
    "OstinatoCurveShift": shift,
    "OstinatoAutomation": automation,
}

EFFECTS: dict[str, Callable[[], Plots]] = CURVES | {
    "OstinatoEncodePrompt": encode_prompt,
    "OstinatoSourceAudio": source_audio,
    "OstinatoGuidance": guidance,
    "OstinatoStreamDenoise": stream_denoise,
    "OstinatoStreamDecode": stream_decode,
    "OstinatoStreamStats": stream_stats,
    "OstinatoCombineConditions": combine,
    "OstinatoKnobs": knobs,
    "OstinatoBlend": blend,
    "OstinatoChannelGain": channel_gain,
    "OstinatoDcw": dcw,
    "OstinatoTarget": target,
    "OstinatoMask": mask,
    "OstinatoInitialNoise": initial_noise,
    "OstinatoCurveEnvelope": envelope,
    "OstinatoCurveBeats": beats,
    "OstinatoCurvePreview": preview,
    "OstinatoLayerProfile": layer_profile,
}
