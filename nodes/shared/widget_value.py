"""Tells what a widget takes: one rule for workflows on the command line and for what is turned while it plays."""

from __future__ import annotations

import sys
from typing import Any

from .comfy import io
from .run import widget_of

WIDGET_VALUES = {  # types of widgets, and the values that each takes
    "INT": "a whole number of at most 64 bits",
    "FLOAT": "a finite number",
    "BOOLEAN": "true or false",
    "STRING": "text without NUL and lone surrogates",
    "COMBO": "one of its options",
    "CURVE": 'a curve such as {"points": [[0, 0], [1, 1]], "interpolation": "linear"}',
}
SHOWN_OPTIONS = 20


class NotTaken(ValueError):
    """A value that a widget does not take; the text says what is allowed."""


def options_of(spec: io.Input) -> list[Any]:
    """Return the choices of a combo; none for any other input."""
    return list(getattr(widget_of(spec), "options", None) or ())


def converted(spec: io.Input, value: Any) -> Any:
    """Convert a value to its widget's type. Raises `NotTaken` for a value of another type."""
    kind = widget_of(spec).get_io_type()
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    text = isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)
    if kind == "INT" and number and value == value // 1 and -(1 << 63) <= value < 1 << 64:
        return int(value)
    if kind == "FLOAT" and number:
        return float(value)
    if kind == "BOOLEAN" and isinstance(value, bool) or kind == "STRING" and text:
        return value
    if kind == "COMBO" and (text or value in options_of(spec)):
        return value
    if kind == "CURVE" and (isinstance(value, list) or isinstance(value, dict) and "points" in value):
        return value
    raise NotTaken(WIDGET_VALUES.get(kind) or f"a link of type {spec.get_io_type()}")


def check_limits(spec: io.Input, value: Any) -> None:
    """Raise `NotTaken` for a value of the right type that is out of range, or no option."""
    widget = widget_of(spec)
    low, high = getattr(widget, "min", None), getattr(widget, "max", None)
    if low is not None and value < low or high is not None and value > high:
        raise NotTaken(f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}")
    options = options_of(spec)
    # one that takes text too has any text, in ComfyUI as well
    if spec.get_io_type() == "COMBO" and value not in options:
        shown = ", ".join(str(option) for option in options[:SHOWN_OPTIONS]) or "nothing: the list is empty"
        more = len(options) - SHOWN_OPTIONS
        raise NotTaken(shown + (f" and {more} more" if more > 0 else ""))
