"""The table of knobs: all that follows from a row, for every row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ostinato.cli.settings import split_knobs
from ostinato.engine_runtime.config import StreamConfig
from ostinato.engine_runtime.controls.automation import AUTOMATABLE
from ostinato.engine_runtime.controls.knobs import BUFFERS, DCW_FACTORS, KNOBS, PLACES, Knob, Knobs
from ostinato.engine_runtime.device.lane import Lane
from ostinato.engine_runtime.engines.contract import Limits
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.numerics.correction import filters, number_of
from ostinato.engine_runtime.spec import ACE_STEP
from ostinato.engine_runtime.stream.session import Session
from ostinato.engine_runtime.takes.codec import Reader, Writer
from ostinato.nodes.guidance import Guide
from ostinato.nodes.knobs import Blend, ChannelGain, Dcw, TurnKnobs

from ...helpers import StandIn, apart
from ...live import everything, rows

DEPTH, T, C = 2, 7, ACE_STEP.channels
WIDGETS = {"guidance_scale": "scale", "channel_gain": "gain", "dcw": "dcw_mode"}  # of another name than the knob


def another(knob: Knob) -> Any:
    """A value that is neither its default nor neutral."""
    if knob.options:
        return next(option for option in knob.options if option != knob.default)
    return True if knob.buffer == "" else knob.low + 0.3 * (knob.high - knob.low)


def played(knob: Knob, value: Any) -> Session:
    """A session after one tick in which the knob had this value, with a request for which every knob may act."""
    request = everything(1, T, "full", steps=5, solver="sde" if knob.place == "sde" else "ode")
    engine = StandIn(Limits(64, 4096, 1024))
    config = StreamConfig(DEPTH, spread=False, **rows([request]))
    session = apart("table", engine, config, Lane(engine.device), Knobs(dcw=knob.place == "correction"))
    session.set(**{knob.name: value})
    session.submit(request)
    session.step()
    return session


@pytest.mark.parametrize("knob", KNOBS.values(), ids=KNOBS)
def test_a_row_is_whole(knob):
    assert knob.place in PLACES and knob.buffer in BUFFERS and knob.help.endswith(".")
    for value in (knob.default, knob.neutral, another(knob)):
        assert value is None or knob.check(value) is None
    assert not knob.is_neutral(another(knob)) and another(knob) != knob.default
    if knob.gated and knob.default is not None:
        assert knob.default == knob.neutral, "it costs nothing until it is set"


def test_only_the_gain_is_per_channel():
    assert [name for name, knob in KNOBS.items() if knob.per_channel] == ["channel_gain"]


@pytest.mark.parametrize("knob", [knob for knob in KNOBS.values() if knob.takes_curve], ids=lambda knob: knob.name)
def test_a_curve_has_the_length_of_the_music(knob):
    curve = torch.full((T,), another(knob))
    knobs = Knobs(**{knob.name: curve})
    knobs.check_frames(T, C)
    assert knob.fits(curve, T, C) and not knob.fits(curve, T + 1, C)
    with pytest.raises(InputError, match=f"{knob.label} has {T} frames"):
        knobs.check_frames(T + 1, C)


@pytest.mark.parametrize("knob", [knob for knob in KNOBS.values() if knob.takes_curve], ids=lambda knob: knob.name)
def test_a_value_out_of_range_is_refused_and_changes_nothing(knob):
    knobs = Knobs()
    for beyond in (knob.low - 0.01, knob.high + 0.01, float("nan"), torch.full((T,), knob.high + 0.01), True, "1"):
        with pytest.raises(InputError, match=knob.label):
            knobs.changed(**{knob.name: beyond})
    for within in (knob.low, knob.high):
        assert getattr(knobs.changed(**{knob.name: within}), knob.name) == within
    assert getattr(knobs, knob.name) == knob.default


@pytest.mark.parametrize("knob", [knob for knob in KNOBS.values() if knob.takes_curve], ids=lambda knob: knob.name)
def test_a_curve_is_refused_for_one_bad_number(knob):
    good = torch.full((T,), another(knob))
    for bad in (knob.low - 0.01, knob.high + 0.01):
        curve = good.clone()
        curve[2] = bad
        with pytest.raises(InputError, match=f"{knob.label} is"):
            Knobs(**{knob.name: curve})
    curve[2] = float("nan")
    with pytest.raises(InputError, match="holds NaN or infinite"):
        Knobs(**{knob.name: curve})


@pytest.mark.parametrize("shape", [(0,), (T, 1), (T, C + 1), (1, T, C)])
def test_a_curve_of_another_shape_is_refused(shape):
    wide = {"velocity_scale": r"\[frames\];", "channel_gain": rf"\[frames\], \[{C}\] or \[frames, {C}\];"}
    for name, allowed in wide.items():
        with pytest.raises(InputError, match=f"has shape .*allowed is {allowed}"):
            Knobs.check({name: torch.ones(shape)}, C)
    assert Knobs(velocity_scale=torch.ones(1)).velocity_scale.shape == (1,)
    with pytest.raises(InputError, match=f"channel gain has {T} frames"):
        Knobs(channel_gain=torch.ones(T, C)).check_frames(T + 1, C)


def test_a_table_that_is_made_whole_is_checked_too():
    for wrong in ({"velocity_scale": 99.0}, {"dcw_mode": "all"}, {"dcw": 1.0}, {"velocity_scale": None}):
        with pytest.raises(InputError):
            Knobs(**wrong)
    with pytest.raises(InputError, match="no knob 'speed'"):
        Knobs.check({"speed": 1.0})


def test_a_row_in_words():
    words = {name: (KNOBS[name].default_text, KNOBS[name].range_text) for name in ("guidance_scale", "dcw", "dcw_mode")}
    scale = KNOBS["guidance_scale"]
    assert words["guidance_scale"] == ("the request's", f"{scale.low:g} to {scale.high:g}")
    assert words["dcw"] == ("off", "on, off") and words["dcw_mode"] == (
        KNOBS["dcw_mode"].default,
        ", ".join(DCW_FACTORS),
    )
    low, high, remedy = scale.limits
    assert (low, high) == (scale.low, scale.high) and remedy[0].islower() and f"{remedy}.".lower() == scale.help.lower()


def test_a_text_is_a_value_in_range():
    switch = {"on": True, "true": True, "ON": True, "off": False, "False": False}
    assert {text: KNOBS["dcw"].parse(text) for text in switch} == switch
    assert KNOBS["velocity_scale"].parse("0.5") == 0.5
    for name, text in (("dcw", "1"), ("velocity_scale", "99"), ("velocity_scale", "much"), ("dcw_mode", "all")):
        with pytest.raises(InputError):
            KNOBS[name].parse(text)


@pytest.mark.parametrize("knob", KNOBS.values(), ids=KNOBS)
def test_a_knob_reaches_its_buffer(knob):
    value, coefficients = another(knob), filters("haar").coefficients(T)
    tick = played(knob, value).stage.tick
    shape = {
        "frame": (DEPTH, T, 1),
        "channel": (DEPTH, T, C),
        "weights": (DEPTH, 2, T, 1),
        "band": (DEPTH, coefficients, 1),
    }.get(knob.buffer)
    if shape is None:
        assert knob.name not in tick.buffers.tensors
        return
    name = {"weights": "weights", "band": f"{knob.name} {coefficients}"}.get(knob.buffer, knob.name)
    assert tick.buffers[name].shape == shape
    if knob.buffer != "weights":
        assert torch.equal(tick.buffers[name], torch.full(shape, value))
    else:
        first, second = everything(1, T).parts
        want = torch.stack([torch.full((T,), first.weight * (1 - value)), second.weight * value])
        torch.testing.assert_close(tick.buffers[name][0, ..., 0], want)


@pytest.mark.parametrize("knob", [knob for knob in KNOBS.values() if knob.gated], ids=lambda knob: knob.name)
def test_a_knob_opens_its_gate_and_its_neutral_value_closes_it(knob):
    wanted = number_of("double", "haar") if knob.name == "dcw" else 1
    assert played(knob, another(knob)).stage.ring.plan()[0].knobs[knob.name] == wanted
    at_rest = played(knob, knob.neutral).stage.ring.plan()[0]
    assert knob.name not in at_rest.knobs


@pytest.mark.parametrize("mode", DCW_FACTORS)
def test_factors_that_are_neutral_close_the_gate_of_dcw(mode):
    knobs = {"dcw_mode": mode, **dict.fromkeys(("dcw_low", "dcw_high"), 0.3)}
    for names, open_ in ((DCW_FACTORS[mode][:1], len(DCW_FACTORS[mode]) > 1), (DCW_FACTORS[mode], False), ((), True)):
        session = played(KNOBS["dcw"], True)
        session.set(**{**knobs, **dict.fromkeys(names, 0.0)})
        session.step()
        assert ("dcw" in session.stage.ring.plan()[0].knobs) == open_


@pytest.mark.parametrize("knob", KNOBS.values(), ids=KNOBS)
def test_a_knob_has_a_widget_a_text_form_and_a_track(knob):
    inputs = {i.id: i for node in (TurnKnobs, Dcw, Blend, ChannelGain, Guide) for i in node.define_schema().inputs}
    assert WIDGETS.get(knob.name, knob.name) in inputs
    value = another(knob)
    assert split_knobs([f"knob.{knob.name}={value}"]) == ({knob.name: value}, [])
    assert (knob.name in AUTOMATABLE) == (not knob.options)


@pytest.mark.parametrize("knob", KNOBS.values(), ids=KNOBS)
def test_a_knob_comes_back_from_a_take(knob):
    writer = Writer()
    values = [another(knob), torch.linspace(knob.low, knob.high, T)] if knob.takes_curve else [another(knob)]
    for value in values:
        packed = writer.pack(Knobs(**{knob.name: value}))
        again = getattr(Reader(writer.tensors).expect(Knobs, packed), knob.name)
        assert torch.equal(again, value) if isinstance(value, torch.Tensor) else again == value


def test_widgets_keep_their_order():
    """Saved graphs hold the values of a node by their position."""
    ids = [[i.id for i in node.define_schema().inputs if i.id != "knobs"] for node in (TurnKnobs, Dcw)]
    assert ids[0][:4] == ["velocity_scale", "ode_noise", "sde", "target_strength"]
    assert ids[1] == ["dcw_mode", "dcw_low", "dcw_high", "dcw_wavelet"]
