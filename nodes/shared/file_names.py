"""Names of files with parts to fill in, as ComfyUI's editor does for its own save nodes before it queues a graph.

`%date:yyyy-MM-dd%` becomes the time, `%Node.widget%` the value of a widget; what is neither stays as it is. The rules
are those of the frontend's `applyTextReplacements` and `formatDate`, 1.43 to 1.58.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comfy import io

SEARCHED = "Node name for S&R"  # a property of a node; its type where it has none
DATE = re.compile("dd?|MM?|hh?|mm?|ss?|yyy?y?")
UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')  # that a value must not bring into a name


def fill_in(prefix: str, hidden: io.HiddenHolder, now: datetime | None = None) -> str:
    """Return a file name prefix with its parts filled in, from the prompt and the workflow of a running node."""
    prompt, workflow = hidden.prompt or {}, (hidden.extra_pnginfo or {}).get("workflow") or {}
    return re.sub("%([^%]+)%", lambda found: _part(found, prompt, workflow, now or datetime.now()), prefix)


def _part(found: re.Match[str], prompt: Mapping[str, Any], workflow: Mapping[str, Any], now: datetime) -> str:
    first, *rest = found[1].split(".")
    if len(rest) != 1:
        return date_text(first[5:], now) if first.startswith("date:") else found[0]
    nodes = list(_nodes(prompt, workflow))
    named = [node for node in nodes if node[0] == first] or [node for node in nodes if node[1] == first]
    if not named or (value := named[0][2].get(rest[0], found)) is found or _is_link(value):
        return found[0]
    return UNSAFE.sub("_", script_text(value))


def _nodes(prompt: Mapping[str, Any], workflow: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """List the nodes of a graph: name to search for, title, and values by name."""
    drawn = {str(node.get("id")): node for node in workflow.get("nodes", ()) if isinstance(node, dict)}
    for id, node in prompt.items():
        shown, kind = drawn.get(id, {}), node["class_type"]
        title = shown.get("title") or (node.get("_meta") or {}).get("title") or kind
        yield (shown.get("properties") or {}).get(SEARCHED, kind), title, node["inputs"]
    for id, shown in drawn.items():
        if id not in prompt and shown.get("type") == "PrimitiveNode" and shown.get("widgets_values"):
            name = (shown.get("properties") or {}).get(SEARCHED, "PrimitiveNode")
            yield name, shown.get("title", "Primitive"), {"value": shown["widgets_values"][0]}


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def date_text(form: str, now: datetime) -> str:
    """Write a time in a form such as yyyy-MM-dd hh:mm:ss."""
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(found: re.Match[str]) -> str:
        text = found[0]
        if text in ("yy", "yyyy"):
            return str(now.year)[4 - len(text) :]
        return str(parts[text[0]]).rjust(len(text), "0") if text[0] in parts else text

    return DATE.sub(part, form)


def script_text(value: Any) -> str:
    """Write a value as JavaScript makes text of it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(float(value))
    if isinstance(value, list | tuple):
        return ",".join(script_text(item) for item in value)
    return value if isinstance(value, str) else "[object Object]"


def _number(value: float) -> str:
    """Write a double: the shortest digits that name it, in full from 1e-6 up to 1e21."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0"
    sign, (mantissa, exponent) = "-" * (value < 0), f"{abs(value)!r}e0".split("e")[:2]
    whole, _, fraction = mantissa.partition(".")
    digits, point = (whole + fraction).lstrip("0"), len(whole) + int(exponent)
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        padded = digits.ljust(point, "0")
        return f"{sign}{padded[:point]}{'.' * (len(padded) > point)}{padded[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" * (len(digits) > 1)
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"
