"""The grammar of a live connection: what it says passes as it is, anything else is refused in one sentence."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ostinato.engine_runtime.errors import InputError
from ostinato.engine_runtime.live.block import Block
from ostinato.engine_runtime.live.line import Heard
from ostinato.engine_runtime.serve import messages
from ostinato.engine_runtime.serve.messages import HEADER, MAX_BYTES, Message, frame, read

COUNT = st.integers(0, 2**53 - 1)
NAME = st.text(max_size=100)
NUMBER = st.floats(allow_nan=False, allow_infinity=False, width=32)
CURVE = st.builds(
    messages.Curve, st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=256), st.sampled_from(["linear", "hold"])
)
VALUE = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), NUMBER, st.text(max_size=200), CURVE)
BINDING = st.builds(
    messages.Binding,
    NAME,
    NAME,
    NAME,
    st.sampled_from(["cc", "note", "axis", "button"]),
    st.integers(0, 127),
    st.integers(0, 127),
    st.sampled_from(["absolute", "14 bit", "twos complement", "offset", "sign"]),
    NUMBER,
    NUMBER,
)
MESSAGES = st.one_of(
    st.builds(messages.Hello, COUNT, NAME, COUNT, COUNT),
    st.just(messages.Start()),
    st.just(messages.Pause()),
    st.just(messages.Stop()),
    st.builds(messages.Set, COUNT, NAME, NAME, VALUE, st.sampled_from(["now", "beat", "bar"])),
    st.builds(messages.Record, COUNT, st.booleans()),
    st.builds(messages.Settings, st.sampled_from(["now", "beat", "bar"]), st.lists(BINDING, max_size=3)),
    st.builds(messages.At, COUNT, COUNT, COUNT, COUNT, st.booleans(), COUNT),
    st.builds(messages.Capture, COUNT, st.floats(0, 3600), st.integers(0, 1000)),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=12,
)


@given(MESSAGES)
def test_every_message_comes_through(message: Message) -> None:
    assert read(msgspec.json.encode(message)) == message


@given(MESSAGES, st.data())
def test_a_message_with_one_thing_wrong_is_refused(message: Message, data: st.DataObject) -> None:
    """A field more, a field of another type, or a number that does not fit."""
    plain = msgspec.to_builtins(message)
    name = data.draw(st.sampled_from([*sorted(set(plain) - {"type"}), "surplus"]))
    wrong: Any = {"surplus": 1, "interpolation": 3, "midi": {}}.get(name, [])
    with pytest.raises(InputError):
        read(json.dumps(plain | {name: wrong}))


@given(JSON)
def test_any_json_is_a_message_or_refused(value: Any) -> None:
    text = json.dumps(value)  # NaN and Infinity among it
    try:
        read(text)
    except InputError as error:
        assert len(str(error)) < 1500


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        read(data)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"set","id":1,"node":"4","input":"x","value":NaN}',
        '{"type":"set","id":1,"node":"4","input":"x","value":Infinity}',
        '{"type":"set","id":1,"node":"4","input":"x","value":1e999}',
        '{"type":"set","id":1,"node":"4","input":"x","value":null}',
        '{"type":"set","id":-1,"node":"4","input":"x","value":1}',
        '{"type":"set","id":9007199254740992,"node":"4","input":"x","value":1}',
        '{"type":"set","id":1.5,"node":"4","input":"x","value":1}',
        '{"type":"set","id":1,"node":"%s","input":"x","value":1}' % ("4" * 101),
        '{"type":"set","id":1,"node":"4","input":"x","value":"%s"}' % ("a" * 20_001),
        '{"type":"set","id":1,"node":"4","input":"x","value":{"points":[],"interpolation":"linear"}}',
        '{"type":"set","id":1,"node":"4","input":"x","value":{"points":%s}}' % ([[0, 0]] * 257),
        '{"type":"set","id":1,"node":"4","input":"x","value":1,"when":"later"}',
        '{"type":"record","id":1,"on":1}',
        '{"type":"settings","midi":%s}' % ([{}] * 257),
        '{"type":"settings","midi":[{"node":"1"}]}',
        '{"type":"record","id":1,"on":true,"file":"/etc/passwd"}',
        '{"type":"run","command":"rm"}',
        '{"node":"4"}',
        "[" * 60_000,
        "",
        "null",
        " " * (MAX_BYTES + 1),
        '"\\ud800"',
    ],
    ids=lambda text: text[:60].strip() or "blank",
)
def test_hostile_messages_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        read(text)


def test_a_frame_is_laid_out_as_the_page_reads_it() -> None:
    data = frame(Block(3, 1 << 40, Heard(5, 6), (1 << 40) + 256, b"\1\0\2\0"))
    assert len(data) == 44 and HEADER.size == 40
    assert data[0] == 1 and int.from_bytes(data[4:8], "little") == 3
    numbers = [int.from_bytes(data[at : at + 8], "little") for at in (8, 16, 24, 32)]
    assert numbers == [1 << 40, 5, 6, (1 << 40) + 256] and data[40:] == b"\1\0\2\0"
