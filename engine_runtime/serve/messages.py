"""The messages of a live connection: JSON as text both ways, and sound as binary frames to the listener.

Every message is checked whole: an unknown field, a wrong type, NaN, or more than the lengths below is refused. A client
begins with `hello`.

A frame of sound is 40 bytes, little-endian: version (1 byte, 3 free), epoch (4), then 8 each: position of the first
sample, the latest hot change, the latest change of a generation, the first position that has them; behind it int16
samples at 48 kHz, left and right in turn. A frame takes the place of whatever the listener has at its positions.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ..errors import InputError, OstinatoError
from ..live.block import Block
from ..live.figures import Figures

VERSION = 1
MAX_BYTES = 64 << 10  # of a message from a client
HEADER = struct.Struct("<BxxxIQQQQ")
Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # what a browser's number holds
Name = Annotated[str, Meta(max_length=100)]
Point = tuple[float, float]


class Curve(Struct, forbid_unknown_fields=True):
    """The value of a curve widget."""

    points: Annotated[list[Point], Meta(min_length=1, max_length=256)]
    interpolation: Name = "linear"


Value = bool | int | float | Annotated[str, Meta(max_length=20_000)] | Curve


class Hello(Struct, tag="hello", tag_field="type", forbid_unknown_fields=True):
    """The first message; who was here before says what sound it has, up to which position of which epoch."""

    version: int
    session: Name = ""
    epoch: Count = 0
    position: Count = 0


class Start(Struct, tag="start", tag_field="type", forbid_unknown_fields=True):
    """Play, or go on."""


class Pause(Struct, tag="pause", tag_field="type", forbid_unknown_fields=True):
    """Make nothing more, until `start`."""


class Stop(Struct, tag="stop", tag_field="type", forbid_unknown_fields=True):
    """Pause, and drop what was sent and not heard."""


class End(Struct, tag="end", tag_field="type", forbid_unknown_fields=True):
    """End the session: its node is gone."""


class Set(Struct, tag="set", tag_field="type", forbid_unknown_fields=True):
    """Turn a widget; `id` rises with each, and comes back in `taken`. What waits for a beat comes back in `queued`
    first, with the position at which it will be heard.
    """

    id: Count
    node: Name
    input: Name
    value: Value
    when: Literal["now", "beat", "bar"] = "now"

    @property
    def given(self) -> Any:
        """Return the value as the graph keeps it: a curve as a dict."""
        return msgspec.to_builtins(self.value)


class At(Struct, tag="at", tag_field="type", forbid_unknown_fields=True):
    """The listener's place: the position that sounds now, the samples it wants ahead, the bytes it has received."""

    epoch: Count
    position: Count
    lead: Count
    bytes: Count
    moving: bool
    underruns: Count = 0


class Capture(Struct, tag="capture", tag_field="type", forbid_unknown_fields=True):
    """Keep the last seconds, or bars."""

    id: Count
    seconds: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    bars: Annotated[int, Meta(ge=0, le=1000)] = 0


class Record(Struct, tag="record", tag_field="type", forbid_unknown_fields=True):
    """Begin a recording of what is heard, or end it; `recording` comes back."""

    id: Count
    on: bool


class Binding(Struct, forbid_unknown_fields=True):
    """A controller, and the widget that it turns between `low` and `high`; `device` is its name, empty for any."""

    node: Name
    input: Name
    device: Name
    kind: Literal["cc", "note", "axis", "button"]
    channel: Annotated[int, Meta(ge=0, lt=128)]
    number: Annotated[int, Meta(ge=0, lt=128)]
    mode: Literal["absolute", "14 bit", "twos complement", "offset", "sign"]
    low: float
    high: float


class Settings(Struct, tag="settings", tag_field="type", forbid_unknown_fields=True):
    """Carries what belongs to a set beside its values: when changes act, and the controllers."""

    when: Literal["now", "beat", "bar"] = "now"
    midi: Annotated[list[Binding], Meta(max_length=256)] = []


Message = Hello | Start | Pause | Stop | End | Set | At | Capture | Record | Settings
_decoder = msgspec.json.Decoder(Message)
_encoder = msgspec.json.Encoder()


def read(data: str | bytes) -> Message:
    """Convert a client's message.

    Raises:
        InputError: for anything that is none of these.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"the message has {len(data)} bytes", f"at most {MAX_BYTES} are read", "send less at a time")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InputError(
            f"the message cannot be read: {error}", "allowed are those of version 1", "load the page again"
        ) from None


def write(kind: str, **fields: Any) -> str:
    """Write a message to a client."""
    return _encoder.encode({"type": kind, **fields}).decode()


def frame(block: Block) -> bytes:
    """Write a piece of sound to a client."""
    heard = block.heard
    return HEADER.pack(VERSION, block.epoch, block.position, heard.hot, heard.slot, block.at) + block.pcm


def sentence(error: Exception) -> str:
    """Word an error for a client; of one that is not ours only the kind, for its text may name files."""
    if isinstance(error, OstinatoError):
        return str(error)
    return f"{type(error).__name__}; the server's log says more."


def shown(figures: Figures) -> dict[str, Any]:
    """Return the figures of a session as plain data, the ring's among them."""
    plain_data = {name: value for name, value in vars(figures).items() if name != "stats"}
    if (stats := figures.stats) is not None:
        plain_data |= {
            "tick": stats.ms_per_tick,
            "finished": stats.finished,
            "depth": stats.depth,
            "slots": stats.slots,
        }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in plain_data.items()}
