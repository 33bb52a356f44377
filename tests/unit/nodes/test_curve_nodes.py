"""The curve nodes, number inputs that take a curve, and both on the command line."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from ostinato.cli import main
from ostinato.cli.core_nodes import CORE_NODES
from ostinato.cli.graph import Link, WorkflowError, catalogue, is_widget, widget_default
from ostinato.cli.settings import apply_settings
from ostinato.cli.validate import running_order, validate
from ostinato.cli.workflow import parse
from ostinato.engine_runtime.controls import curves, from_audio, points
from ostinato.engine_runtime.errors import InputError
from ostinato.nodes import NODES
from ostinato.nodes import curves as nodes
from ostinato.nodes.curve_audio import CurveBeats, CurveEnvelope
from ostinato.nodes.curve_preview import CurvePreview
from ostinato.nodes.encode_prompt import EncodePrompt
from ostinato.nodes.shared.comfy import io
from ostinato.nodes.shared.run import widget_of
from ostinato.nodes.shared.sockets import Curve
from ostinato.nodes.shared.values import to_value, value_input
from ostinato.nodes.stream_denoise import StreamDenoise
from PIL import Image
from typer.testing import CliRunner

from ..cli.toy_nodes import api, editor, raw, socket

RATE = 8000


class Taker(io.ComfyNode):
    """A node whose numbers take curves; `late` is optional."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        numbers = {"min": 0.0, "max": 2.0, "step": 0.1, "tooltip": "A number."}
        inputs = [
            value_input("late", default=0.25, optional=True, advanced=True, **numbers),
            value_input("gain", default=1.0, **numbers),
            io.Int.Input("frames", default=4, min=1),
        ]
        return io.Schema(node_id="Taker", inputs=inputs, outputs=[Curve.Output("curve")], is_output_node=True)

    @classmethod
    def execute(cls, gain, frames, late=0.5) -> io.NodeOutput:
        gain, late = to_value(gain, frames, "gain"), to_value(late, frames, "late")
        text = f"{type(gain).__name__} {gain} {late}" if isinstance(gain, float) else str(gain.tolist())
        return io.NodeOutput(curves.constant(1), ui={"text": (text,)})


PROMPT = {spec.id: widget_default(spec) for spec in EncodePrompt.define_schema().inputs if is_widget(spec)}
TYPES = catalogue([*NODES, Taker], CORE_NODES)


def audio(waveform, rate=RATE):
    return {"waveform": torch.as_tensor(waveform, dtype=torch.float32)[None], "sample_rate": rate}


def made(node, **inputs):
    """Run a node with its widgets' defaults and these inputs; its curve."""
    defaults = {i.id: widget_default(i) for i in node.define_schema().inputs if is_widget(i)}
    return node.execute(**(defaults | inputs))


def values(output, frames=26):
    return output[0].values(frames)


def test_the_menus_are_the_runtimes():
    assert nodes.SHAPES == list(curves.SHAPES) and nodes.UNITS == list(curves.UNITS)
    assert nodes.OPERATIONS == list(curves.OPERATIONS) and nodes.EDGES == list(curves.EDGES)


OURS = [node for node in NODES if node.define_schema().node_id.startswith("OstinatoCurve")]


@pytest.mark.parametrize("node", OURS, ids=lambda node: node.__name__)
def test_a_curve_node_explains_itself(node):
    schema = node.GET_SCHEMA()
    assert schema.category == "Ostinato/curves" and schema.description
    assert schema.display_name.startswith("Curve ") and schema.display_name.endswith(" (Ostinato)")
    assert all(widget_of(item).tooltip for item in schema.inputs) and all(out.tooltip for out in schema.outputs)


def test_there_are_ten_curve_nodes():
    names = "Constant Ramp Lfo Points Math Envelope Beats Resample Shift Preview".split()
    assert {node.define_schema().node_id for node in OURS} == {f"OstinatoCurve{name}" for name in names}


def test_drawn_curves():
    np.testing.assert_array_equal(values(made(nodes.CurveConstant, value=2.5)), np.full(26, 2.5))
    ramp = values(made(nodes.CurveRamp, start=1.0, end=3.0, until=0.4))
    np.testing.assert_allclose(ramp, np.minimum(1 + np.arange(26) / 5, 3), rtol=1e-6)
    wave = {"shape": "random", "rate": 2.0, "unit": "cycles", "phase": 0.5, "low": -1.0, "high": 4.0, "seed": 9}
    lfo = curves.lfo("random", 2.0, "cycles", 0.5, -1.0, 4.0, 9)
    np.testing.assert_array_equal(values(made(nodes.CurveLfo, **wave)), lfo.values(26))


TABLE = [[0, 0.5], [0.4, 1], [1, 0]]


def test_points_in_every_form_that_comfyui_has():
    class Core:  # what a link from ComfyUI's Curve Editor brings
        def interp_array(self, at):
            return at**2

    smooth, straight = (points.through(TABLE, mode, 1, 3).values(26) for mode in points.INTERPOLATIONS)
    assert np.abs(smooth - straight).max() > 0.01
    given = {"low": 1.0, "high": 3.0}
    np.testing.assert_array_equal(values(made(nodes.CurvePoints, points=TABLE, **given)), smooth)
    np.testing.assert_array_equal(values(made(nodes.CurvePoints, points={"points": TABLE}, **given)), smooth)
    linear = {"points": TABLE, "interpolation": "linear"}
    np.testing.assert_array_equal(values(made(nodes.CurvePoints, points=linear, **given)), straight)
    square = values(made(nodes.CurvePoints, points=Core(), **given))
    np.testing.assert_allclose(square, 1 + 2 * np.linspace(0, 1, 26) ** 2, rtol=1e-6)
    np.testing.assert_allclose(values(made(nodes.CurvePoints)), np.linspace(0, 1, 26), atol=1e-6)


def test_curves_of_curves():
    ramp = curves.ramp(0, 25)
    np.testing.assert_allclose(values(made(nodes.CurveMath, a=ramp, b=2.0, operation="multiply")), np.arange(26) * 2)
    mixed = made(nodes.CurveMath, a=10.0, b=20.0, operation="mix", amount=curves.ramp(0, 1))
    np.testing.assert_allclose(values(mixed), np.linspace(10, 20, 26), rtol=1e-6)
    shifted = made(nodes.CurveShift, curve=ramp, seconds=0.08, edges="wrap")
    np.testing.assert_allclose(values(shifted), np.roll(np.arange(26), 2), atol=1e-6)
    measured = curves.fixed(np.arange(26))
    resampled = made(nodes.CurveResample, curve=measured)
    np.testing.assert_allclose(values(resampled, 51), np.arange(51) / 2, atol=1e-6)
    drawn = made(nodes.CurveResample, curve=curves.lfo("square", 1), seconds=1.0)
    assert (values(drawn, 250)[:125] == 1).all() and (values(drawn, 250)[-100:] == 0).all()


def test_the_envelope_node():
    sound = np.zeros((2, RATE))
    sound[:, RATE // 2 :] = 0.3
    out = made(CurveEnvelope, audio=audio(sound), attack=0.0, release=0.0, low=-1.0, high=2.0)
    np.testing.assert_allclose(out[0].values(25)[[0, 11, 13, 24]], [-1, -1, 2, 2], atol=1e-4)
    with pytest.raises(InputError, match="25 frames .1 s.; 26 frames"):
        out[0].values(26)
    with pytest.raises(InputError, match="one clip"):
        made(CurveEnvelope, audio={"waveform": torch.zeros(2, 1, RATE), "sample_rate": RATE})


def test_a_found_tempo_goes_into_encode_prompt(monkeypatch):
    """It is a fraction, and a prompt's tempo is whole."""
    told = []
    monkeypatch.setattr(
        "ostinato.engine_runtime.models.conditioning.encode_prompt", lambda *given: told.append(given[1])
    )
    beats = {"bpm": 104.4, "every": 1, "offset": 0.0, "decay": 1.0, "low": 0.0, "high": 1.0}
    model = {"model": "tiny", "precision": "auto", "device": "cpu", "download": False}
    denoise = {spec.id: widget_default(spec) for spec in StreamDenoise.define_schema().inputs if is_widget(spec)}
    checked(
        api(
            n1=("OstinatoCurveBeats", beats),
            n2=("OstinatoLoadModel", model),
            n3=("OstinatoEncodePrompt", {**PROMPT, "model": ["2", 0], "bpm": ["1", 1]}),
            n4=("OstinatoEngine", {"model": ["2", 0], "kind": "eager", "max_rows": 16}),
            n5=("OstinatoStreamDenoise", {**denoise, "engine": ["4", 0], "condition": ["3", 0]}),
            n6=("OstinatoStreamStats", {"stats": ["5", 1]}),
        )
    )
    model = SimpleNamespace(spec=None)
    for bpm, whole in ((104.4, 104), (90, 90), (119.7, 120)):
        EncodePrompt.execute(model, **{**PROMPT, "bpm": bpm})
        assert told.pop().bpm == whole
    with pytest.raises(InputError, match="bpm is nan"):
        EncodePrompt.execute(model, **{**PROMPT, "bpm": math.nan})


def test_no_beat_is_told_by_the_node():
    """One stroke was a traceback; a tone had one beat at 215 a minute."""
    stroke = np.zeros((1, 4 * RATE))
    stroke[0, 3 * RATE :] = np.exp(-np.arange(RATE) / 400) * np.sin(np.arange(RATE))
    for sound in (stroke, 0.3 * np.sin(2 * np.pi * 440 * np.arange(5 * RATE) / RATE)[None]):
        with pytest.raises(InputError, match="no beat was found"):
            made(CurveBeats, audio=audio(sound))


def test_the_beats_node():
    sound = np.zeros((1, 8 * RATE))
    starts = np.arange(0.4, 8, 0.5)
    for start in starts:
        sound[0, round(start * RATE) :][:80] = np.sin(np.arange(80))
    plain = {"decay": 0.0, "low": 2.0, "high": 5.0}
    out = made(CurveBeats, audio=audio(sound), **plain)
    assert out[1] == pytest.approx(120, rel=0.01)
    found = out[0].values(200)
    assert set(found.tolist()) == {2.0, 5.0}
    np.testing.assert_allclose(np.flatnonzero(found == 5), starts * 25, atol=1)
    assert (made(CurveBeats, audio=audio(sound), every=2, **plain)[0].values(200) == 5).sum() == len(starts) / 2
    grid = made(CurveBeats, bpm=100.0, offset=0.2, **plain)
    assert grid[1] == 100
    np.testing.assert_array_equal(grid[0].values(99), 2 + 3 * from_audio.beat_grid(100, 1, 0.2, 0).values(99))
    with pytest.raises(InputError, match="neither audio nor a tempo"):
        made(CurveBeats)
    with pytest.raises(InputError, match="the tempo is 30"):
        made(CurveBeats, bpm=30.0)


@pytest.mark.parametrize(
    ("curve", "clip", "seconds", "frames"),
    [
        (curves.constant(1), None, 0.0, 250),
        (curves.constant(1), 3, 0.0, 75),
        (curves.constant(1), 3, 2.0, 50),
        (curves.fixed(np.zeros(7)), 3, 0.0, 7),
    ],
)
def test_how_long_a_preview_is(curve, clip, seconds, frames, monkeypatch):
    drawn = []
    target = "ostinato.engine_runtime.plots.curve.plot_curve"
    monkeypatch.setattr(target, lambda values, samples, rate: drawn.append((len(values), samples, rate)))
    monkeypatch.setattr("ostinato.nodes.shared.comfy.ui.PreviewImage", lambda image, cls: None)
    sound = None if clip is None else audio(np.ones((2, clip * RATE)))
    made(CurvePreview, curve=curve, seconds=seconds, audio=sound)
    assert drawn[0][0] == frames
    assert drawn[0][1] is None if clip is None else drawn[0][1].shape == (2, clip * RATE) and drawn[0][2] == RATE


@pytest.mark.parametrize("node", [nodes.CurveResample, CurvePreview])
def test_a_length_that_is_none(node):
    for seconds in (math.nan, -1.0, 601.0):
        with pytest.raises(InputError, match="the length is"):
            made(node, curve=curves.constant(1), seconds=seconds)
    assert [curves.frames_in(seconds) for seconds in (0, 0.001, 1, 600)] == [0, 1, 25, 15000]


def test_a_preview_refuses_another_length():
    with pytest.raises(InputError, match="Curve Resample"):
        made(CurvePreview, curve=curves.fixed([1.0, 2.0]), seconds=1.0)


@given(st.floats(-1e6, 1e6) | st.integers(-9, 9), st.integers(1, 99))
def test_a_number_stays_a_number(value, frames):
    assert to_value(value, frames) == value and type(to_value(value, frames)) is float


def test_a_curve_becomes_a_tensor():
    made = to_value(curves.ramp(0, 3), 4)
    assert made.dtype == torch.float32 and made.tolist() == [0, 1, 2, 3]
    for odd in ("1", None, True, [1.0], torch.ones(4)):
        with pytest.raises(InputError, match=f"gain is a {type(odd).__name__}; allowed is a number or a curve"):
            to_value(odd, 4, "gain")


def test_what_such_an_input_is():
    late, gain, _ = Taker.GET_SCHEMA().inputs
    assert gain.get_io_type() == "FLOAT,OSTINATO_CURVE" and is_widget(gain) and widget_default(gain) == 1.0
    assert (late.id, late.optional, gain.optional) == ("late", True, False)
    widget = widget_of(late)
    assert (widget.min, widget.max, widget.step, widget.advanced) == (0.0, 2.0, 0.1, True)
    assert widget.tooltip == late.tooltip == "A number. Also takes a curve."


def checked(data, *settings):
    graph = parse(data, TYPES)
    apply_settings(graph, TYPES, list(settings))
    validate(graph, TYPES, running_order(graph, TYPES))
    return graph


def test_the_command_line_checks_such_an_input():
    assert checked(api(n1=("Taker", {"gain": 1, "frames": 2}))).nodes["1"].inputs == {"gain": 1.0, "frames": 2}
    assert checked(api(n1=("Taker", {"gain": 1, "frames": 2})), "Taker.gain=0.5").nodes["1"].inputs["gain"] == 0.5
    for value, words in ((2.5, "0.0 to 2.0"), (math.nan, "finite number"), ("x", "finite number"), (True, "number")):
        with pytest.raises(WorkflowError, match=words):
            checked(api(n1=("Taker", {"gain": value, "frames": 2})))
    with pytest.raises(WorkflowError, match="allowed is a number"):
        checked(api(n1=("Taker", {"gain": 1, "frames": 2})), "Taker.gain=loud")
    with pytest.raises(WorkflowError, match="needs a value of type FLOAT,OSTINATO_CURVE"):
        checked(api(n1=("Taker", {"frames": 2})))


def test_what_may_be_linked_to_such_an_input():
    curve = api(n1=("OstinatoCurveConstant", {"value": 1.5}), n2=("Taker", {"gain": ["1", 0], "frames": 2}))
    checked(curve)
    beats = {"bpm": 90.0, "every": 1, "offset": 0.0, "decay": 1.0, "low": 0.0, "high": 1.0}
    checked(api(n1=("OstinatoCurveBeats", beats), n2=("Taker", {"gain": ["1", 1], "frames": 2})))
    picture = {"n3": ("OstinatoCurvePreview", {"curve": ["1", 0], "seconds": 0})}
    curve |= api(**picture, n2=("Taker", {"gain": ["3", 0], "frames": 2}))
    with pytest.raises(WorkflowError, match="is given IMAGE .* allowed is FLOAT,OSTINATO_CURVE"):
        checked(curve)


def lfo_to_taker():
    """As ComfyUI's editor saves it: a linked widget keeps its place, its number, and a socket of both types."""
    both = "FLOAT,OSTINATO_CURVE"
    taker = [
        socket("gain", both, 1, widget=True),
        socket("frames", "INT", widget=True),
        socket("late", both, None, True),
    ]
    lfo = raw(1, "OstinatoCurveLfo", (), ["OSTINATO_CURVE"], ["square", 12.5, "Hz", 0, 1, 2, 0])
    return editor(
        [lfo, raw(2, "Taker", taker, ["OSTINATO_CURVE"], [0.75, 3, 0.125])], [[1, 1, 0, 2, 0, "OSTINATO_CURVE"]]
    )


def test_the_editors_json():
    assert checked(lfo_to_taker()).nodes["2"].inputs == {"gain": Link("1", 0), "frames": 3, "late": 0.125}
    free = lfo_to_taker()
    free["links"], free["nodes"][1]["inputs"][0]["link"] = [], None
    assert checked(free).nodes["2"].inputs["gain"] == 0.75
    points = {"points": TABLE, "interpolation": "linear"}
    drawn = raw(1, "OstinatoCurvePoints", [socket("points", "CURVE", None, True)], ["OSTINATO_CURVE"], [points, 0, 2])
    preview = raw(2, "OstinatoCurvePreview", [socket("curve", "OSTINATO_CURVE", 1)], ["IMAGE"], [0])
    graph = checked(editor([drawn, preview], [[1, 1, 0, 2, 0, "OSTINATO_CURVE"]]))
    assert graph.nodes["1"].inputs == {"points": points, "low": 0.0, "high": 2.0}
    assert parse(graph.to_api(), TYPES) == graph


def test_the_curve_widget_on_the_command_line():
    spec = next(i for i in nodes.CurvePoints.define_schema().inputs if i.id == "points")
    assert widget_default(spec) == {"points": [[0.0, 0.0], [1.0, 1.0]], "interpolation": "monotone_cubic"}
    data = api(n1=("OstinatoCurvePoints", {"points": [[0, 0], [1, 1]], "low": 0.0, "high": 1.0}),
               n2=("OstinatoCurvePreview", {"curve": ["1", 0], "seconds": 0.0}))  # fmt: skip
    assert checked(data).nodes["1"].inputs["points"] == [[0, 0], [1, 1]]
    text = json.dumps({"points": TABLE, "interpolation": "linear"})
    assert checked(data, f"1.points={text}").nodes["1"].inputs["points"] == json.loads(text)
    for odd in ("[[0, 0", "7", '"a"', '{"interpolation": "linear"}'):
        with pytest.raises(WorkflowError, match="allowed is a curve such as"):
            checked(data, f"1.points={odd}")


@pytest.fixture
def ostinato(tmp_path, places, knows):
    knows(TYPES)
    places(here=tmp_path)

    def run(data, *arguments):
        (tmp_path / "flow.json").write_text(json.dumps(data))
        return CliRunner().invoke(main.app, ["run", "flow.json", *arguments])

    return run


def test_a_run_on_the_command_line(ostinato):
    result = ostinato(lfo_to_taker())
    assert result.exit_code == 0, result.output
    assert "[2.0, 1.0, 2.0]" in result.stdout
    assert "float 0.5 0.125" in ostinato(lfo_to_taker(), "--set", "Taker.gain=0.5").stdout


def test_a_preview_on_the_command_line(ostinato, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(2 * RATE) / 9), RATE)
    data = api(
        n1=("LoadAudio", {"audio": "a.wav"}),
        n2=("OstinatoCurveEnvelope", {"audio": ["1", 0], "attack": 9, "release": 99, "low": 0, "high": 1}),
        n3=("OstinatoCurvePreview", {"curve": ["2", 0], "audio": ["1", 0], "seconds": 0}),
    )
    result = ostinato(data, "--out", "made")
    assert result.exit_code == 0, result.output
    assert Image.open("made/preview_00001_.png").size == (720, 320)
    wrong = ostinato(data, "--set", "3.seconds=3")
    assert wrong.exit_code == 2 and "the curve has 50 frames (2 s); 75 frames (3 s) are asked for" in wrong.stderr
